from __future__ import annotations

import pytest

from dust2gold.core.errors import InputError
from lightning_modules.components.sampling.settings import SamplingSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples", 0),
        ("max_new_tokens", 0),
        ("rows", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.5),
    ],
)
def test_settings_name_the_wrong_field(field: str, value: float) -> None:
    with pytest.raises(InputError) as caught:
        SamplingSettings(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field
