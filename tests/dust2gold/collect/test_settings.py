from __future__ import annotations

from typing import Any

import pytest

from dust2gold.collect.settings import CollectSettings, Endpoint, Prices, TeacherSampling
from dust2gold.core.errors import InputError

BAD_URLS = ("", "localhost:8000", "http://", "http://a:99999999", "https://me:sk-secret@host/v1")


@pytest.mark.parametrize(
    ("kind", "values", "field"),
    [
        (Endpoint, {"model": " "}, "endpoint.model"),
        (Endpoint, {"concurrency": 0}, "endpoint.concurrency"),
        (Endpoint, {"timeout": 0}, "endpoint.timeout"),
        (Endpoint, {"choices_per_request": 0}, "endpoint.choices_per_request"),
        *((Endpoint, {"base_url": url}, "endpoint.base_url") for url in BAD_URLS),
        (Endpoint, {"key_variable": "sk-secret"}, "endpoint.key_variable"),
        (Endpoint, {"parameters": {"n": 2}}, "endpoint.parameters.n"),
        (Endpoint, {"parameters": {"stream": True}}, "endpoint.parameters.stream"),
        (TeacherSampling, {"n": 0}, "sampling.n"),
        (TeacherSampling, {"temperature": -1}, "sampling.temperature"),
        (TeacherSampling, {"top_p": 0}, "sampling.top_p"),
        (TeacherSampling, {"max_tokens": 0}, "sampling.max_tokens"),
        (Endpoint, {"retries": -1}, "endpoint.retries"),
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
