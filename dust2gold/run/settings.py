"""The settings of a whole run: what a file such as configs/demo.yaml holds, and `--set NAME=VALUE` overrides."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dust2gold.core.configs import find_config, read_yaml
from dust2gold.core.errors import InputError


@dataclass(frozen=True)
class RunSettings:
    r"""The values of a run. A file that names `test_data` reads MATH's files; otherwise problems are generated.

    Attributes:
        run: The run directory; the report names the run's rows after the directories in it.
        student: The student: a Hugging Face directory, a hub name, or `embedded`.
        configs: A directory of sizes laid over configs/: `student.yaml` over every stage that trains or samples the
            student, and a file named as the stage's config over that one.
        seed: Of training, batches and samples (`--seeds 0,1,2`); the data have a seed of their own.
        samples: NAT's samples per training question.
        votes: Samples per test question.
        test_limit: Use only the first so many test questions.
        train_limit: Sample NAT on only the first so many training questions.
        rank_base: What M_rank reads with; null: the student.
        rank_encoder: Whether that is an encoder, named as a path.
        rank_data: What M_rank learns from, files of the run directory.
        tables: Whether the other rows of the paper's tables are made too.
        teacher_data: The teacher's samples; null: those of the generated problems.
        train_source: The name of the training data.
        test_data: MATH's test set; null: problems are generated.
        questions: Prepare only the first so many questions of each of these files.
        data_seed: Of the generated problems and of the teacher.
        train_questions: Generated for training.
        test_questions: Generated for the test.
        levels: Steps per problem.
        slips: Factor on the seeded teacher's slip rates.
        notation: Share of its answers written as 12.0 or \frac{24}{2}, which string grading calls wrong.
        others: The directory of the paper's other test sets, in their publishers' formats.
        other_questions: So many questions in other publishers' formats are generated as further test sets.
    """

    run: str
    student: str = "embedded"
    configs: str = "configs/demo"
    seed: int = 0
    samples: int = 4
    votes: int = 16
    test_limit: int | None = None
    train_limit: int | None = None
    rank_base: str | None = None
    rank_encoder: bool = False
    rank_data: tuple[str, ...] = ("samples/samples.jsonl", "data/solutions.jsonl")
    tables: bool = False
    teacher_data: str | None = None
    train_source: str = "demo-train"
    test_data: str | None = None
    questions: int | None = None
    data_seed: int = 0
    train_questions: int = 1500
    test_questions: int = 600
    levels: str = "2,3,4"
    slips: float = 0.8
    notation: float = 0
    others: str | None = None
    other_questions: int | None = None


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
    path = find_config(file)
    found = read_yaml(path)
    if not isinstance(found, dict):
        remedy = f"write fields, as `run: runs/mine`; there are {', '.join(_kinds(kind))}"
        raise InputError(f"a mapping was expected, found {_name_of(found)}", file=path, remedy=remedy)
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    lines = {key.value: key.start_mark.line + 1 for key, _ in pairs}
    values = {
        name: _checked(kind, str(name), value, path, lines.get(str(name)), f"field '{name}'")
        for name, value in found.items()
    }
    for field in fields(kind):
        if field.default is MISSING and field.name not in values:
            raise InputError("is missing", file=path, field=field.name, remedy=f"write `{field.name}: ...`")
    settings = kind(**values)
    for name, text in overrides.items():
        if name == "run":
            raise InputError("--set run=...: this is the run directory", remedy="use --run DIR")
        value = text if "str" in _kinds(kind).get(name, ()) and text not in ("null", "~") else _parsed(name, text)
        settings = replace(settings, **{name: _checked(kind, name, value, None, None, f"--set {name}=...")})
    return settings


def _kinds(kind: type[RunSettings]) -> dict[str, tuple[str, ...]]:
    """The names of the types that each field takes."""
    hints = typing.get_type_hints(kind)
    return {field.name: _names(hints[field.name]) for field in fields(kind)}


def _names(hint: Any) -> tuple[str, ...]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return tuple(name for part in typing.get_args(hint) for name in _names(part))
    return ("null",) if hint is type(None) else ("list",) if typing.get_origin(hint) is tuple else (hint.__name__,)


def _checked(kind: type[RunSettings], name: str, value: Any, file: Path | None, line: int | None, where: str) -> Any:
    """A value in its field's type; a number is taken for a text too, as in `levels: 2`."""
    known = _kinds(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        problem = "no such field" if file is not None else f"{where}: no such field"
        remedy = f"{hint}the fields are {', '.join(known)}"
        raise InputError(problem, file=file, line=line, field=name if file is not None else None, remedy=remedy)
    wanted, found = known[name], _name_of(value)
    if found in wanted:
        if found == "list" and not all(isinstance(item, str) for item in value):
            raise InputError("a list of texts was expected", file=file, line=line, field=name, remedy="quote its items")
        return tuple(value) if found == "list" else value
    if found in ("int", "float") and "str" in wanted:
        return str(value)
    if found == "int" and "float" in wanted:
        return float(value)
    expected = " or ".join(_WORDS[each] for each in wanted)
    raise InputError(
        f"{expected} was expected, found {value!r}", file=file, line=line, field=name, remedy="mend this value"
    )


def _name_of(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _parsed(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"--set {name}={text}: not a YAML value", remedy="as in --set samples=16") from error
