"""Options that hold a key are refused: a run repeats its settings in config.yaml, its records and its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from dust2gold.core.errors import InputError

_SECRET = re.compile(
    r"(.*[_-])?(password|passwd|secrets?|credentials?|(api|access|auth|private)[_-]?key)"
    r"|((access|api|auth|hf|hub|refresh|session)[_-])?token",
    re.IGNORECASE,
)
"""Names of options; `eos_token`, `max_tokens`, `tokenizer` and `key_variable` are none."""


_SECRET_QUERIES = {"key", "sig"}
"""And of queries in addresses."""


def may_hold_secret(address: str) -> bool:
    """Whether a web address has user information, a fragment, or a query that is no version of an API."""
    _, _, query = address.partition("?")
    host = address.partition("://")[2].partition("/")[0]
    return "@" in host or "#" in address or any(name != "api-version" for name, _ in parse_qsl(query, True))


def _is_secret(option: str, value: str) -> bool:
    if _SECRET.fullmatch(option):
        return True
    if option == "base_url":  # of an endpoint, which wants its key in a header
        return may_hold_secret(value)
    try:
        url = urlsplit(value)
    except ValueError:  # no address
        return False
    names = [name for name, _ in parse_qsl(f"{url.query}&{url.fragment}")]
    user = url.username if url.scheme in ("http", "https") else url.password
    return bool(url.netloc) and (bool(user) or any(_SECRET.fullmatch(n) or n in _SECRET_QUERIES for n in names))


def check_options(settings: Any, name: str = "", file: Path | None = None, field: str | None = None) -> None:
    """Checks that no setting, in mappings and lists within others, is a key or a password.

    Raises:
        InputError: If one is, with the `file` and the `field` they stand in; it does not repeat the value.
    """
    if isinstance(settings, Mapping):
        for key, inner in settings.items():
            check_options(inner, name if key == "init_args" else f"{name}.{key}".lstrip("."), file, field)
    elif isinstance(settings, (list, tuple)):
        for inner in settings:
            check_options(inner, name, file, field)
    elif isinstance(settings, str) and settings and _is_secret(name.rpartition(".")[2], settings):
        holds = "may hold" if name.endswith("base_url") else "holds"
        problem = f"option '{name}' {holds} a key or a password, which a run would repeat in its files"
        remedy = (
            "put it into the environment, where clients and loggers look for it (OPENAI_API_KEY, WANDB_API_KEY, ...)"
        )
        raise InputError(problem, file=file, field=field, remedy=remedy)


def check_command(words: Sequence[str], file: Path, field: str) -> None:
    """The same for a command line that stands in a file."""
    for word, following in zip(words, (*words[1:], ""), strict=True):
        option, given, value = word.partition("=")
        if option.startswith("--"):
            try:
                settings = yaml.safe_load(value if given else following)
            except (yaml.YAMLError, ValueError):
                settings = following
            check_options(settings, option[2:], file, field)
