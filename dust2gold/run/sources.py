"""What of our code, and which libraries, decide what a command makes: all that its verb's module imports."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from dust2gold.core.provenance import LIBRARIES, OURS, content_hash, short_hash, version_of

CODE_ROOT = Path(__file__).resolve().parents[2]
"""The directory that holds `cli.py` and our packages, in a checkout as in an installation."""

_CONFIGURED = ("callbacks", "datamodules", "lightning_modules")
"""Whose classes the configs of the Trainer's verbs name."""
_TRAINER_VERBS = ("fit", "validate", "test", "predict")
_MESSAGES = ("dust2gold/core/config_errors.py", "dust2gold/core/secret_options.py")
"""Modules that word messages, or refuse, and decide nothing."""
_BROUGHT = {"transformers": "tokenizers", "math-verify": "sympy"}
"""Libraries that come with others and decide results, too."""


def facts_of(verbs: Iterable[str]) -> dict[str, str]:
    """A hash of the code in each directory that the verbs rest on, and the versions of the libraries."""
    rests_on = [_reached(verb) for verb in sorted(set(verbs))]
    directories: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    for file in sorted({file for files, _ in rests_on for file in files}):
        directories[Path(file).parent.as_posix()].append((file, _hash(file)))
    libraries = sorted({library for _, libraries in rests_on for library in libraries})
    return {
        **{f"code in {directory}": short_hash(found) for directory, found in directories.items()},
        **{f"version of {library}": version_of(library) for library in libraries},
    }


@cache
def _hash(file: str) -> str | None:
    """Each file is read once in a process: what is edited while it runs is not what runs."""
    return content_hash(CODE_ROOT / file)


@cache
def _reached(verb: str) -> tuple[frozenset[str], frozenset[str]]:
    """The files of ours that a verb's module imports, directly or not, and the libraries that decide results."""
    waiting = [file.relative_to(CODE_ROOT).as_posix() for file in _roots(verb)]
    files: set[str] = set()
    libraries: set[str] = set()
    while waiting:
        file = waiting.pop()
        if file in files or file in _MESSAGES:
            continue
        files.add(file)
        for name in _imported(CODE_ROOT / file):
            top = name.partition(".")[0].replace("_", "-")
            libraries |= {top, *([_BROUGHT[top]] if top in _BROUGHT else [])} if top in LIBRARIES else set()
            waiting += _files_of(name)
    return frozenset(files), frozenset(libraries)


def _roots(verb: str) -> list[Path]:
    """The module of a verb; of one that has none in dust2gold/commands all of our code."""
    module = CODE_ROOT / "dust2gold" / "commands" / f"{verb.replace('-', '_')}.py"
    packages: tuple[str, ...] = OURS
    if verb in _TRAINER_VERBS:
        module, packages = module.with_name("trainer.py"), _CONFIGURED
    elif module.is_file():
        packages = ()
    found = [file for package in packages for file in (CODE_ROOT / package).rglob("*.py")]
    return [*found, *([module] if module.is_file() else [])]


def _imported(file: Path) -> Iterator[str]:
    """Full names of the modules a file imports, wherever in the file it does, and of what it takes from them."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def _files_of(name: str) -> list[str]:
    """The files of one of our modules and of the packages it is in; none of another name."""
    parts = name.split(".")
    if parts[0] not in OURS:
        return []
    paths = [CODE_ROOT.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    paths.append(CODE_ROOT.joinpath(*parts).with_suffix(".py"))
    return [path.relative_to(CODE_ROOT).as_posix() for path in paths if path.is_file()]
