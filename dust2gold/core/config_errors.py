"""Errors in configs and options, in two lines: which option, in which file and line, and what to do about it.

jsonargparse's own messages list every type that did not match, over a dozen lines; the one that matters is inside.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dust2gold.core.configs import config_files, find_config, read_yaml, with_found_configs
from dust2gold.core.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_KEY = re.compile(r'(?:- )?Parser key "([^"]+)":\s*(.*)')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_AROUND = re.compile(
    r"(- )?(Does not validate against|Subtypes:|Errors:|Problem with given class_path|Expected a <class 'NoneType'>"
    r"|Expected a path but|Not a valid subclass|Given value)"
)
"""Lines of a message that say only where its next line belongs."""
_UNKNOWN = (
    re.compile(r"()Option '([^']+)' is not accepted"),
    re.compile(r"(?:Group '([^']+)' |)does not accept option '([^']+)'"),
    re.compile(r"()unrecognized arguments: --([\w.]+)"),
)
_WRONG_TYPE = re.compile(r"Expected an? <class '(\w+)'>(?:\. Got value: (.*))?")


def parse_options(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    """Parses a command line, verb first, and the configs it names; the parser must not exit on errors."""
    from jsonargparse import ArgumentError

    words = readable_configs(words)
    try:
        parsed: Namespace = parser.parse_args(words[1:])
    except ArgumentError as error:
        raise explained(str(error), words, [*parser.get_defaults().keys()]) from error
    return parsed


def readable_configs(words: Sequence[str]) -> list[str]:
    """Returns a command line whose configs are named by where they are, and can be read and are mappings."""
    words = with_found_configs(words)
    for name in config_files(words):
        value = read_yaml(Path(name))
        if not isinstance(value, dict):
            remedy = f"begin it with the name of an option and a colon, as {_example(words)} does"
            raise InputError(f"a mapping was expected, found {type(value).__name__}", file=name, remedy=remedy)
    return words


def explained(message: str, words: Sequence[str], known: Sequence[str] = ()) -> InputError:
    """Turns jsonargparse's message about a command line, verb first, into an error of two lines.

    Of the `known` options it suggests the one most like an unknown one.
    """
    keys, known_class, problem = _first_problem(message)
    help_ = f"see dust2gold {words[0]} --help"
    if "has no attribute" in problem or "No module" in problem:
        help_ = "check the class path, and that the directory of a module of your own is in PYTHONPATH"
    elif known_class is not None and "callable class" not in problem:
        help_ = f"dust2gold {words[0]} --{'.'.join(keys[:2])}.help {known_class} lists what there is"
    if problem.startswith("the following arguments are required"):
        given = config_files(words)
        remedy = (
            f"{'complete the' if given else 'name a'} config, as in dust2gold {words[0]} --config {_example(words)}"
        )
        return InputError(problem, file=given[-1] if given else None, remedy=remedy)
    for pattern in _UNKNOWN:
        if found := pattern.search(problem):
            keys += [*filter(None, [found[1]]), *found[2].split(".")]
            file, line = find_option(keys, words)
            name = ".".join(keys)
            if known_class == "lightning.LightningDataModule":  # no class was named
                help_ = "name the DataModule: a config such as configs/neg.yaml before this one, or data.class_path"
            if near := difflib.get_close_matches(name, known, n=1):
                help_ = f"did you mean '{near[0]}'? {help_}"
            return InputError("no such option", file=file, line=line, field=name, remedy=help_)
    if found := _WRONG_TYPE.fullmatch(problem):
        value = found[2] or message.rpartition("Given value: ")[2]  # where several types would do it stands below them
        problem = f"{found[1]} was expected, found {value}"
    file, line = find_option(keys, words)
    return InputError(problem.rstrip("."), file=file, line=line, field=".".join(keys) or None, remedy=help_)


def _example(words: Sequence[str]) -> str:
    examples = {"collect": "configs/collect.yaml", "run": "configs/demo.yaml", "study": "configs/study.yaml"}
    return examples.get(words[0], "configs/nat.yaml")


def _first_problem(message: str) -> tuple[list[str], str | None, str]:
    """The keys down to the first thing that is wrong, the class that holds it, and what it is."""
    keys: list[str] = []
    known_class = None
    for line in (line.strip() for line in message.splitlines()):
        if found := _KEY.fullmatch(line):
            keys += found[1].split(".")
            line = found[2]
        if found := _CLASS.search(line):
            known_class = found[1]
        if line and not _AROUND.match(line):
            return keys, known_class, line.removeprefix("- ")
    return keys, known_class, "cannot be used"


def find_option(keys: Sequence[str], words: Sequence[str]) -> tuple[str | None, int | None]:
    """File and line of the last config that holds these keys one under the other; the command line has none."""
    if any(word.startswith("--") and word.split("=")[0].endswith(keys[-1]) for word in words if keys):
        return None, None
    for name in reversed(config_files(words)):
        waiting = list(keys)
        for number, line in enumerate(find_config(name).read_text(encoding="utf-8-sig").splitlines(), 1):
            if waiting and re.match(rf"[\s-]*{re.escape(waiting[0])}\s*:", line):
                waiting.pop(0)
                if not waiting:
                    return name, number
    return None, None
