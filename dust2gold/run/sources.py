"""What of our code, and which libraries, decide what a command makes: all that its verb's module imports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path
from pkgutil import iter_modules

from dust2gold.core.provenance import LIBRARIES, OURS, content_hash, short_hash, version_of

CODE_ROOT = Path(__file__).resolve().parents[2]
"""The directory that holds `cli.py` and our packages, in a checkout as in an installation."""

_CONFIGURED = ("callbacks", "datamodules", "lightning_modules")
"""Whose classes the configs of the Trainer's verbs name."""
_TRAINER_VERBS = ("fit", "validate", "test", "predict")
_MESSAGES = ("dust2gold.core.config_errors", "dust2gold.core.secret_options")
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
    others = [module.name for module in iter_modules([str(CODE_ROOT)]) if module.name not in OURS]
    finder = ModuleFinder([str(CODE_ROOT)], excludes=[*others, *_MESSAGES])
    for file in _roots(verb):
        finder.import_hook(".".join(file.relative_to(CODE_ROOT).with_suffix("").parts).removesuffix(".__init__"))
    found = [Path(place) for module in finder.modules.values() if (place := getattr(module, "__file__", None))]
    missed = {name.partition(".")[0].replace("_", "-") for name in finder.badmodules}  # what is not ours
    libraries = missed.intersection(LIBRARIES)
    libraries |= {brought for library, brought in _BROUGHT.items() if library in libraries}
    return frozenset(file.relative_to(CODE_ROOT).as_posix() for file in found), frozenset(libraries)


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
