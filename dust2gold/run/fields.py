"""Typed access to the mappings of a pipeline file, with errors that name the file and the key."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from dust2gold.core.errors import InputError
from dust2gold.run.fingerprint import CODE_ROOT


class Fields:
    """One mapping of a YAML file whose keys are known beforehand.

    Args:
        value: What YAML gave.
        file: The file it stands in.
        allowed: The keys it may have.
        where: The key of the mapping itself, "" for the whole file.

    Raises:
        InputError: If `value` is no mapping or has another key.
    """

    def __init__(self, value: Any, file: Path, allowed: Collection[str], where: str = "") -> None:
        self.file = file
        self.where = where
        if not isinstance(value, dict):
            raise self.error("", f"a mapping was expected, found {_kind(value)}", f"its keys are {', '.join(allowed)}")
        for key in value:
            if key not in allowed:
                raise self.error(str(key), "unknown key", f"the keys here are {', '.join(allowed)}")
        self._values: dict[str, Any] = value

    def error(self, key: str, problem: str, remedy: str) -> InputError:
        """Makes the error about `key` of this mapping."""
        field = ".".join(part for part in (self.where, key) if part)
        return InputError(problem, file=self.file, field=field or None, remedy=remedy)

    def get(self, key: str) -> Any:
        """Returns what stands under `key`, None if nothing does."""
        return self._values.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        """Returns a single value as text; without a default the key must be there."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise self.error(key, "is missing", f"write `{key}: ...`")
        return self.scalar(value, key)

    def items(self, key: str) -> list[Any]:
        """Returns a list, empty if the key is absent; a single text counts as a list of one."""
        value = self._values.get(key)
        if value is None:
            return []
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list):
            raise self.error(
                key, f"a list was expected, found {_kind(value)}", "write it as [a, b] or one `- a` a line"
            )
        return value

    def texts(self, key: str) -> list[str]:
        """Returns a list of texts, empty if the key is absent."""
        return [self.scalar(value, key) for value in self.items(key)]

    def mapping(self, key: str) -> dict[str, Any]:
        """Returns a mapping from names, empty if the key is absent."""
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(key, "a mapping was expected", "write it as {name: value}")
        for name in value:
            if not isinstance(name, str):
                raise self.error(f"{key}.{name}", "not a name", "quote it, or use letters, digits and _")
        return value

    def scalar(self, value: Any, key: str) -> str:
        """Returns the text of a string, number or boolean as YAML writes it."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (str, int, float)):
            return str(value)
        raise self.error(key, f"a text or number was expected, found {_kind(value)}", "quote it if it holds braces")


def way_to(file: Path) -> str:
    """What to do about a file that is not there: of one that ships with us, where to copy it from."""
    if file.parts[:1] == ("configs",) and (CODE_ROOT / file).is_file():
        copying = shlex.join(["cp", "-r", str(CODE_ROOT / "configs"), "."])
        return f"it ships with dust2gold; get all of its configs with `{copying}`"
    return "check the path; relative paths start at the working directory"


def read_yaml(file: Path) -> Any:
    """Reads a YAML file.

    Raises:
        InputError: If it is missing, not UTF-8 or not YAML.
    """
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        problem = "no such file" if isinstance(error, FileNotFoundError) else f"cannot read ({error.strerror})"
        raise InputError(problem, file=file, remedy=way_to(file)) from error
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 ({error.reason})", file=file, remedy="convert it, e.g. with iconv") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"not YAML ({problem})", file=file, line=line, remedy="mend this line") from error


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
