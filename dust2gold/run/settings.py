"""The settings of a whole run: what a file such as configs/demo.yaml holds, and `--set NAME=VALUE` overrides."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

import yaml

from dust2gold.core.configs import find_config, read_yaml
from dust2gold.core.errors import InputError


@dataclass(frozen=True)
class RunSettings:
    """The values of a run. A file that names `test_data` reads MATH's files; otherwise problems are generated."""

    run: str  # the run directory; the report names the run's rows after the directories in it
    student: str = "embedded"  # a Hugging Face directory, a hub name, or `embedded`
    # A directory of sizes laid over configs/: `student.yaml` over every stage that trains or samples the student, and a
    # file named as the stage's config over that one.
    configs: str = "configs/demo"
    seed: int = 0  # of training, batches and samples (`--seeds 0,1,2`); the data have a seed of their own
    samples: int = 4  # NAT's, of each training question
    votes: int = 16  # samples of each test question
    test_limit: int | None = None  # use only the first so many test questions
    train_limit: int | None = None  # sample NAT on only the first so many training questions
    rank_base: str | None = None  # what M_rank reads with; null: the student
    rank_encoder: bool = False  # whether that is an encoder, named as a path
    rank_data: tuple[str, ...] = ("samples/samples.jsonl", "data/solutions.jsonl")  # M_rank's, of the run directory
    tables: bool = False  # whether the other rows of the paper's tables are made too
    teacher_data: str | None = None  # the teacher's samples; null: those of the generated problems
    train_source: str = "demo-train"  # the name of the training data
    test_data: str | None = None  # MATH's test set; null: problems are generated
    questions: int | None = None  # prepare only the first so many questions of each of these files
    data_seed: int = 0  # of the generated problems and of the teacher
    train_questions: int = 1500  # generated ones
    test_questions: int = 600
    levels: str = "2,3,4"  # steps a problem
    slips: float = 0.8  # factor on the seeded teacher's slip rates
    notation: float = 0  # share of its answers written as 12.0 or \frac{24}{2}, which string grading calls wrong
    others: str | None = None  # the directory of the paper's other test sets, in their publishers' formats
    other_questions: int | None = None  # so many are generated in other publishers' formats, as further test sets


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "list": "a list of texts",
    "null": "null",
}

Settings = TypeVar("Settings", bound=RunSettings)


def load_settings(file: str, overrides: Mapping[str, str], kind: type[Settings]) -> Settings:
    """Reads a file of settings.

    Args:
        file: A YAML file: a mapping of fields.
        overrides: Values of `--set`, as typed.
        kind: `RunSettings`, or a dataclass that adds fields to it.

    Raises:
        InputError: If the file is missing or malformed, or a field is unknown, missing or of another type.
    """
    path, hints = find_config(file), typing.get_type_hints(kind)
    types_of = {field.name: _names(hints[field.name]) for field in fields(kind)}
    found = read_yaml(path)
    if not isinstance(found, dict):
        remedy = f"write fields, as `run: runs/mine`; there are {', '.join(types_of)}"
        raise InputError(f"a mapping was expected, found {_name_of(found)}", file=path, remedy=remedy)
    root: Any = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    lines = {key.value: key.start_mark.line + 1 for key, _ in root.value}
    values = {}
    for name, value in ((str(name), value) for name, value in found.items()):
        if name not in types_of:
            raise InputError("no such field", file=path, line=lines.get(name), field=name, remedy=_near(name, types_of))
        try:
            values[name] = _checked(types_of[name], name, value)
        except InputError as error:
            raise InputError(error.problem, file=path, line=lines.get(name), field=name, remedy=error.remedy) from error
    for field in fields(kind):
        if field.default is MISSING and field.name not in values:
            raise InputError("is missing", file=path, field=field.name, remedy=f"write `{field.name}: ...`")
    for name, text in overrides.items():
        if name == "run":
            raise InputError("--set run=...: this is the run directory", remedy="use --run DIR")
        if name not in types_of:
            raise InputError(f"--set {name}=...: no such field", remedy=_near(name, types_of))
        plain = "str" in types_of[name] and text not in ("null", "~")
        values[name] = _checked(types_of[name], name, text if plain else _parsed(name, text))
    return kind(**values)


def _names(hint: Any) -> tuple[str, ...]:
    """The names of the types that a field takes."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return tuple(name for part in typing.get_args(hint) for name in _names(part))
    return ("null",) if hint is type(None) else ("list",) if typing.get_origin(hint) is tuple else (hint.__name__,)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean '{near[0]}'? " if near else "") + f"the fields are {', '.join(known)}"


def _checked(wanted: tuple[str, ...], name: str, value: Any) -> Any:
    """A value in its field's type; a number is taken for a text too, as in `levels: 2`."""
    found = _name_of(value)
    if found == "list" and "list" in wanted and all(isinstance(item, str) for item in value):
        return tuple(value)
    if found in wanted and found != "list":
        return value
    if found in ("int", "float") and "str" in wanted:
        return str(value)
    if found == "int" and "float" in wanted:
        return float(value)
    expected = " or ".join(_WORDS[each] for each in wanted)
    raise InputError(f"{expected} was expected, found {value!r}", field=name, remedy="mend this value")


def _name_of(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _parsed(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"--set {name}={text}: not a YAML value", remedy="as in --set samples=16") from error
