"""Options that hold a key are refused: a run repeats what it is told in its config.yaml, manifests and checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dust2gold.core.errors import InputError

_NAME = re.compile(
    r"(.*_)?(pass(word|wd|phrase)|secrets?|credentials?|bearer|authorization|(api|access|auth|secret|private)_?key"
    r"|(api|access|auth|bearer|hf|hub|login|private|refresh|secret|session)_?token)|token",
    re.IGNORECASE,
)
"""Of an option or key; `eos_token`, `max_tokens`, `tokenizer` and `key_variable` are none."""
_LOGIN = re.compile(r"\w://[^/\s@:]*:[^/\s@]+@")
"""A user name and a password within an address."""


def check_options(settings: Mapping[str, Any]) -> None:
    """Checks that no option's value is a key.

    Args:
        settings: What was parsed, options within options as mappings and lists.

    Raises:
        InputError: If one is; it does not repeat the value.
    """
    for name in _secrets("", settings):
        raise _refusal(f"option '{name.replace('.init_args', '')}'")


def check_command(words: Sequence[str], file: Path, field: str) -> None:
    """Checks that no option of a command line of a pipeline is a key.

    Args:
        words: The command line.
        file: The file it stands in.
        field: Its key there.

    Raises:
        InputError: If one is; it does not repeat the value.
    """
    for word, following in zip(words, (*words[1:], ""), strict=True):
        option, given, value = word.partition("=")
        if option.startswith("-"):
            for name in _secrets(option.lstrip("-"), _read(value if given else following)):
                raise _refusal(f"option '{name}'", file, field)
        for _ in _secrets("", _read(word)):
            raise _refusal("a word of a command", file, field)


def _refusal(what: str, file: Path | None = None, field: str | None = None) -> InputError:
    return InputError(
        f"{what} holds a key or a password, which a run would repeat in its files",
        file=file,
        field=field,
        remedy="put it into the environment, where loggers and clients look for it: export WANDB_API_KEY=...",
    )


def _read(text: str) -> Any:
    """An option's value: a mapping or a list where it is written as one, else its text."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _secrets(name: str, value: Any) -> Iterator[str]:
    """The dotted names of the keys at or below an option."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _secrets(f"{name}.{key}".lstrip("."), inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _secrets(name, inner)
    elif isinstance(value, str):
        named = _NAME.fullmatch(name.rpartition(".")[2].replace("-", "_"))
        if (named and value not in ("", "null", "None")) or _LOGIN.search(value):
            yield name
