"""What a product was made from: settings, the contents of what they name, and the versions that decide results.

    made = Provenance.of({"data": {"train": "positive.jsonl"}, "seed": 0}, libraries=("torch",))
    made.key                           # 16 hexadecimal digits: names a directory, or stands in a file's first line
    made.differences(earlier)          # ["data.train"]: what to tell the user

A setting that names a file or directory counts by its contents, not by its name: a moved file is the same, a changed
one is another. A class of the user's own counts by the file it is in. Equal keys mean that making the product again
would change nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dust2gold.core.students import EMBEDDED, locate_student

LIBRARIES = ("lightning", "math-verify", "peft", "sympy", "tokenizers", "torch", "transformers")
"""The libraries whose versions decide what training, sampling and grading make."""

_INSTALLED = [path for name, path in sysconfig.get_paths().items() if name in ("stdlib", "purelib", "platlib")]
OURS = ("callbacks", "datamodules", "dust2gold", "lightning_modules")
"""The packages that hold our own code."""

_WHOLE = 64 << 20  # bytes: larger files count by their size and blocks spread over them
_BLOCK, _BLOCKS = 1 << 16, 256


@dataclass(frozen=True)
class Provenance:
    """What a product was made from."""

    facts: Mapping[str, str]  # a short hash of each setting by its dotted name, and each library's version

    @classmethod
    def of(
        cls, settings: Mapping[str, Any], *, without: Collection[str] = (), libraries: Collection[str] = LIBRARIES
    ) -> Provenance:
        """Takes stock of nested settings as things stand (`init_args` adds nothing to a name).

        Args:
            settings: The settings.
            without: Those that do not matter: last parts of names, or whole dotted names.
            libraries: Whose versions matter.

        Raises:
            InputError: If a file that a setting names cannot be read.
        """
        leaves = dict(_leaves(settings, "", frozenset(without)))
        facts = {name: short_hash(_content(value)) for name, value in leaves.items()}
        facts |= own_code(str(value) for name, value in leaves.items() if name.endswith("class_path"))
        return cls({**facts, **{f"version of {name}": version_of(name) for name in libraries}})

    @property
    def key(self) -> str:
        """One hash of all facts."""
        return short_hash(dict(self.facts))

    def differences(self, earlier: Mapping[str, str]) -> list[str]:
        """The names of the facts that an earlier product has otherwise, has not, or has beyond these."""
        return sorted(n for n in {*self.facts, *earlier} if self.facts.get(n) != earlier.get(n))


def version_of(library: str) -> str:
    """The version of a library without the build (`+cu128`); "none" if it is not installed."""
    try:
        return metadata.version(library).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "none"


def own_code(class_paths: Iterable[str]) -> dict[str, str]:
    """A hash of the file of each class that is neither ours nor a library's, by "code of <module>"."""
    found: dict[str, str] = {}
    for module in {path.rpartition(".")[0] for path in class_paths} - {""}:
        top, *rest = module.split(".")
        # Of the first name alone: to look up all of it, Python would import the packages it is in.
        spec = None if top in OURS else importlib.util.find_spec(top)
        if spec is None or not spec.has_location or any(Path(str(spec.origin)).is_relative_to(p) for p in _INSTALLED):
            continue
        package = Path(str(spec.origin)).parent.joinpath(*rest)
        file = package.with_suffix(".py") if rest else Path(str(spec.origin))
        found[f"code of {module}"] = content_hash(file if file.is_file() else package) or "none"
    return found


def short_hash(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def content_hash(path: Path) -> str | None:
    """A hash of a file's bytes, or of a directory's relative names and files; None where nothing exists.

    Files over 64 MiB count by their size and by blocks spread over them, which tells weights from others, all of which
    differ after some training, in the time that a few megabytes take.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return short_hash([[file.relative_to(path).as_posix(), _file_hash(file)] for file in files])
    return _file_hash(path) if path.is_file() else None  # a pipe could be read only once


def _file_hash(file: Path) -> str:
    status = file.stat()
    return _hash_of_version(os.fspath(file.resolve()), status.st_size, status.st_mtime_ns)


@cache
def _hash_of_version(file: str, size: int, time: int) -> str:
    """Each version of a file is read once in a process."""
    digest = hashlib.sha256(str(size).encode())
    with open(file, "rb") as stream:
        if size <= _WHOLE:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        else:
            for start in (*range(0, size, max(_BLOCK, size // _BLOCKS)), size - _BLOCK):
                stream.seek(start)
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()


def _leaves(value: Any, name: str, without: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """The settings and their dotted names."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        full = name if key == "init_args" else f"{name}.{key}".lstrip(".")
        if key not in without and full not in without:
            yield from _leaves(inner, full, without)


def _content(value: Any) -> Any:
    """A setting with a hash of the contents in the place of each path that exists."""
    if isinstance(value, (list, tuple)):
        return [_content(item) for item in value]
    if isinstance(value, str) and value == EMBEDDED:
        value = locate_student(EMBEDDED)
    if not isinstance(value, (str, Path)) or not str(value):
        return value
    try:
        found = content_hash(Path(value).expanduser())
    except (OSError, RuntimeError):
        if os.path.exists(value):
            raise
        found = None  # a long text: looking it up is an error as well
    return str(value) if found is None else found
