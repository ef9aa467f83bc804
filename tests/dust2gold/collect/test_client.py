import time
from email.utils import formatdate

import pytest

from dust2gold.collect.client import Client, http_client, read_key, retry_after
from dust2gold.collect.settings import Endpoint
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


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HTTP_PROXY", "ftp://me:pw@x", "ValueError"),
        ("https_proxy", "http://h:pw", "InvalidURL"),
        ("ALL_PROXY", "socks4://me:pw@x:1", "ValueError"),
        ("HTTP_PROXY", "http://me:pw\x7f@x", "InvalidURL"),
        ("SSL_CERT_FILE", "/nowhere/pw.pem", "FileNotFoundError"),
    ],
)
def test_an_environment_that_no_client_can_use(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=says) as caught:
        http_client()
    assert name in str(caught.value)
    assert "pw" not in str(caught.value)


def test_an_address_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://host/v1?api-key=sk-secret")
    with pytest.raises(InputError, match="field 'OPENAI_BASE_URL': holds more than an address"):
        Client(Endpoint("m"))
