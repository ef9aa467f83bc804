import time
from email.utils import formatdate

import pytest

from dust2gold.collect.client import read_key, retry_after
from dust2gold.core.errors import InputError


@pytest.mark.parametrize("value", ["", "  ", "sk-\nx", "sk-ключ"])
def test_keys_no_header_can_hold(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(InputError) as caught:
        read_key("SOME_KEY")
    assert not value.strip() or value.strip() not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "3"}, 3.0),
        *(({"retry-after": bad}, None) for bad in ("-1", "soon", "nan", "inf", "Wed, 99 Oct 2015 07:28:00 GMT")),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": formatdate(time.time() + 10_000, usegmt=True)}, pytest.approx(10_000, abs=1_000)),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds
