import math

import pytest

from dust2gold.core.errors import InputError
from lightning_modules.components.sampling.settings import SamplingSettings

BAD: dict[str, list[float]] = {"samples": [0], "max_new_tokens": [0], "rows": [0], "top_p": [0.0, 1.5]}
BAD |= {"temperature": [-0.1, math.nan, math.inf]}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_settings_name_the_wrong_field(field: str, value: float) -> None:
    with pytest.raises(InputError) as caught:
        SamplingSettings(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


def test_exact_is_our_decoders() -> None:
    assert SamplingSettings(exact=True).rows is None
    with pytest.raises(InputError, match="same numbers in every batch") as caught:
        SamplingSettings(exact=True, backend="vllm")
    assert caught.value.field == "exact"
