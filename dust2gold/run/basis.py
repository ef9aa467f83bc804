"""What of our code, and which libraries, decide what a command makes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dust2gold.core.files import sha256_of
from dust2gold.run.fingerprint import CODE_ROOT


@dataclass(frozen=True)
class Basis:
    """What a verb rests on; `tests/dust2gold/run/test_basis.py` holds it against what the verb imports.

    Attributes:
        code: Packages and modules of ours, as paths.
        libraries: Distributions whose versions decide results.
    """

    code: tuple[str, ...]
    libraries: tuple[str, ...] = ()


_TRAINER = Basis(
    (
        "callbacks",
        "datamodules",
        "dust2gold/core",
        "lightning_modules",
        "dust2gold/run/resumption.py",
        "dust2gold/commands/trainer.py",
    ),
    ("lightning", "math-verify", "peft", "sympy", "tokenizers", "torch", "transformers"),
)
_RECORDS = ("datamodules/components", "dust2gold/core")
_DOORS = (*_RECORDS, "dust2gold/interchange")

BASES = {
    **dict.fromkeys(("fit", "validate", "test", "predict"), _TRAINER),
    "report": Basis(
        ("dust2gold/commands/verbs.py", "dust2gold/report", "lightning_modules/components", "dust2gold/run", *_RECORDS),
        ("torch",),
    ),
    "prepare": Basis((*_RECORDS, "dust2gold/commands/prepare.py", "dust2gold/prepare"), ("math-verify", "sympy")),
    "collect": Basis(
        (*_RECORDS, "dust2gold/collect", "dust2gold/commands/collect.py", "dust2gold/prepare"), ("math-verify", "sympy")
    ),
    "augment": Basis(_RECORDS),
    "export": Basis(
        ("dust2gold/report", "lightning_modules/components", *_DOORS), ("peft", "tokenizers", "torch", "transformers")
    ),
    "export-data": Basis(_DOORS),
    "import-data": Basis(_DOORS),
    "export-task": Basis(_DOORS),
    "generate": Basis(("dust2gold/demo", *_RECORDS)),
    "fetch-smollm2": Basis(
        ("dust2gold/core", "dust2gold/commands/fetch_smollm2.py"), ("tokenizers", "torch", "transformers")
    ),
}

_EVERYTHING = Basis(("callbacks", "datamodules", "dust2gold", "lightning_modules"), _TRAINER.libraries)
"""Of a verb that the table does not know."""


class Installed:
    """Our code and the libraries as they are installed; every file is read once.

    Args:
        root: The directory that holds our packages.
    """

    def __init__(self, root: Path = CODE_ROOT) -> None:
        self._root = root
        self._known: dict[str, str] = {}

    def code(self, verbs: Iterable[str]) -> dict[str, str]:
        """Returns a hash over the names and contents of the `.py` files of each part of our code the verbs rest on."""
        parts = {part for verb in verbs for part in BASES.get(verb, _EVERYTHING).code}
        outer = {part for part in parts if not any(part.startswith(f"{other}/") for other in parts)}
        return {part: self._hash(part) for part in sorted(outer)}

    def libraries(self, verbs: Iterable[str]) -> dict[str, str]:
        """Returns the version of each library the verbs rest on, without the build (`+cu128`)."""
        names = {name for verb in verbs for name in BASES.get(verb, _EVERYTHING).libraries}
        return {name: version_of(name).partition("+")[0] for name in sorted(names)}

    def _hash(self, part: str) -> str:
        if part not in self._known:
            digest, path = hashlib.sha256(), self._root / part
            for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
                digest.update(f"{file.relative_to(self._root).as_posix()}\0{sha256_of(file)}\n".encode())
            self._known[part] = digest.hexdigest()
        return self._known[part]


def version_of(library: str) -> str:
    """Returns the version of a library, or "none" if it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"
