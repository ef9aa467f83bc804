from typing import Any

import pytest

from dust2gold.collect.settings import CollectSettings, Endpoint, Prices, TeacherSampling
from dust2gold.core.errors import InputError

BAD_URLS = ("", "localhost:8000", "http://", "http://a:99999999", "http://[::1/v1")
SECRET_URLS = ("https://me:sk-secret@host/v1", "https://host/v1?api-key=sk-secret", "https://host/v1#secret")
BAD_NUMBERS = [("concurrency", 0), ("timeout", 0), ("choices_per_request", 0), ("retries", -1)]
BAD_ENDPOINTS = [
    *BAD_NUMBERS,
    ("model", " "),
    ("key_variable", "sk-secret"),
    *(("base_url", url) for url in (*BAD_URLS, *SECRET_URLS)),
]
BAD_SAMPLING = {"n": 0, "temperature": -1, "top_p": 0, "max_tokens": 0}


@pytest.mark.parametrize(
    ("kind", "values", "field"),
    [
        *((Endpoint, {name: value}, f"endpoint.{name}") for name, value in BAD_ENDPOINTS),
        (Endpoint, {"parameters": {"n": 2}}, "endpoint.parameters.n"),
        (Endpoint, {"parameters": {"stream": True}}, "endpoint.parameters.stream"),
        *((TeacherSampling, {name: value}, f"sampling.{name}") for name, value in BAD_SAMPLING.items()),
        (Prices, {"prompt": -1}, "prices.prompt"),
        (CollectSettings, {"limit": 0}, "limit"),
        (CollectSettings, {"budget": -1, "prices": Prices(1, 1)}, "budget"),
        (CollectSettings, {"budget": 1}, "budget"),
        (CollectSettings, {"budget": 1, "prices": Prices(1), "sampling": TeacherSampling(max_tokens=None)}, "budget"),
    ],
)
def test_settings_out_of_range_are_named(kind: Any, values: dict[str, Any], field: str) -> None:
    required: dict[Any, dict[str, Any]] = {
        Endpoint: {"model": "m"},
        CollectSettings: {"input": "a", "output": "b", "prompt": "c", "endpoint": Endpoint("m")},
    }
    with pytest.raises(InputError) as caught:
        kind(**{**required.get(kind, {}), **values})
    assert caught.value.field == field
    assert "secret" not in str(caught.value)
