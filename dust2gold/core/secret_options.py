"""Options that hold a key are refused: a run repeats its settings in config.yaml, its records and its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dust2gold.core.errors import InputError

_SECRET = re.compile(
    r"(.*[_-])?(password|passwd|secrets?|credentials?|(api|access|auth|private)[_-]?key)"
    r"|((access|api|auth|hf|hub|refresh|session)[_-])?token",
    re.IGNORECASE,
)
"""Names of options; `eos_token`, `max_tokens`, `tokenizer` and `key_variable` are none."""


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
    elif isinstance(settings, str) and settings and _SECRET.fullmatch(name.rpartition(".")[2]):
        problem = f"option '{name}' holds a key or a password, which a run would repeat in its files"
        remedy = "put it into the environment, where loggers and clients look for it: export WANDB_API_KEY=..."
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
