"""Which options hold a key by their names."""

from pathlib import Path

import pytest

from dust2gold.core.errors import InputError
from dust2gold.core.secret_options import check_command, check_options

KEY = "sk-planted-0123456789abcdef"
FILE = Path("p.yaml")


@pytest.mark.parametrize(
    "name", ["api_key", "token", "hf_token", "auth-token", "db_password", "client_secret", "ApiKey"]
)
def test_names_of_keys(name: str) -> None:
    with pytest.raises(InputError, match=f"option 'logger.{name}' holds a key") as caught:
        check_options({"logger": [{"init_args": {name: KEY}}]})
    assert KEY not in str(caught.value)
    for words in ([f"--logger.{name}", KEY], [f"--logger.{name}={KEY}"], ["--logger", f"[{{{name}: {KEY}}}]"]):
        with pytest.raises(InputError, match=f"field 'commands': option 'logger.{name}' holds a key"):
            check_command(["fit", *words], FILE, "commands")
    check_options({"logger": {"init_args": {name: None}}})
    check_command(["fit", f"--logger.{name}", "null"], FILE, "commands")


@pytest.mark.parametrize(
    ("name", "address"),
    [
        *(("endpoint.base_url", f"https://host/v1{what}") for what in (f"?api-key={KEY}", f"?{KEY}", f"#{KEY}")),
        ("endpoint.base_url", f"https://{KEY}@host/v1?api-version=1"),
        ("logger.tracking_uri", f"postgresql://me:{KEY}@host/db"),
        ("logger.save_dir", f"https://{KEY}@host"),
        *(("model.student", f"https://host/a?x=1{what}={KEY}") for what in ("&access_token", "&sig", "#token")),
    ],
)
def test_keys_in_addresses(name: str, address: str) -> None:
    with pytest.raises(InputError, match=f"option '{name}' (may hold|holds) a key") as caught:
        check_command(["collect", f"--{name}", address], FILE, "commands")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://[::1/v1", "https://host/v1?api-version=2024-10-21", "ssh://git@host/a", "What?token=3", "a:b@c"]
)
def test_addresses_without_keys(address: str) -> None:
    check_options({"endpoint": {"base_url": address}} if "http" in address else {"data": {"train": address}})


@pytest.mark.parametrize(
    "name", "tokenizer max_new_tokens tokens_per_batch key_variable key_dim eos_token token_limit level passes".split()
)
def test_names_of_other_things(name: str) -> None:
    check_options({"data": {name: "token"}, "url": "https://host:80/a@b:c", "n": 3})
    check_command(["fit", f"--data.{name}", "a", f"--data.{name}=a", "[b", "{c: d}"], FILE, "commands")
