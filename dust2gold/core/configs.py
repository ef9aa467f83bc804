"""Config files: which ones a command line names, where they are, what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dust2gold.core.errors import InputError, reason
from dust2gold.core.files import open_text

SHIPPED = Path(__file__).resolve().parent.parent / "configs"
"""Our own configs: beside the code in a checkout, within the package where dust2gold is installed."""


def find_config(name: str) -> Path:
    """Returns where a config is: `name` itself if there is such a file, else the file of ours: `configs/nat.yaml`."""
    path = Path(name)
    if not path.exists() and path.parts[:1] == ("configs",):
        shipped = SHIPPED.joinpath(*path.parts[1:])
        if shipped.is_file():
            return shipped
    return path


def config_files(words: Sequence[str]) -> list[str]:
    """The files that a command line names after `--config` or `-c`, in order."""
    return [name for option, name in _with_options(words) if option in _CONFIG]


def with_found_configs(words: Sequence[str]) -> list[str]:
    """A command line whose configs are named by where `find_config` finds them, each a word of its own."""
    return [str(find_config(word)) if option in _CONFIG else word for option, word in _with_options(words)]


_CONFIG = ("--config", "-c")


def _with_options(words: Sequence[str]) -> list[tuple[str, str]]:
    """Each word behind the word before it, `--config=FILE` taken apart."""
    apart = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    return list(zip(("", *apart), apart, strict=False))


def read_yaml(file: Path) -> Any:
    """Reads a YAML file, or says why it cannot be read, and the line."""
    try:
        with open_text(file) as stream:
            return yaml.safe_load(stream)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 ({error.reason})", file=file, remedy="convert it, e.g. with iconv") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        problem = getattr(error, "problem", None) or reason(error)
        raise InputError(f"not YAML ({problem})", file=file, line=line, remedy="mend this line") from error
