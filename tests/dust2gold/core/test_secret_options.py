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
    "name", "tokenizer max_new_tokens tokens_per_batch key_variable key_dim eos_token token_limit level passes".split()
)
def test_names_of_other_things(name: str) -> None:
    check_options({"data": {name: "token"}, "url": "https://host:80/a@b:c", "n": 3})
    check_command(["fit", f"--data.{name}", "a", f"--data.{name}=a", "[b", "{c: d}"], FILE, "commands")
