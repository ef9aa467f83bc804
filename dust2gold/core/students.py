"""Where a student's files lie: a directory, a hub name, or the name of the student that ships with us."""

from __future__ import annotations

from pathlib import Path

from dust2gold.core.errors import InputError

EMBEDDED = "embedded"
_EMBEDDED_DIRECTORY = Path(__file__).resolve().parent.parent / "demo" / "student"


def locate_student(name: str) -> str:
    """Turns `embedded`, a local directory, or a hub name `owner/model` into what `from_pretrained` takes.

    Raises:
        InputError: If the name looks like a local path and there is no model directory.
    """
    if name == EMBEDDED:
        return str(_EMBEDDED_DIRECTORY)
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return str(path)
    looks_local = path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1
    if looks_local:
        remedy = "give a directory made by save_pretrained, a hub name such as owner/model, or 'embedded'"
        raise InputError("no Hugging Face model directory (config.json is missing)", file=name, remedy=remedy)
    return name


def public_name(student: str) -> str:
    """The name to write where others read it: of a directory its last part, since a path tells of this machine."""
    path = Path(student).expanduser()
    return path.resolve().name if path.is_dir() or path.is_absolute() or student.startswith(".") else student
