"""A pipeline file: where the run goes, its variables, and the stages with the command lines each consists of.

Example::

    run: runs/demo
    include: [pipeline/stages.yaml]
    variables: {student: embedded, data: "{run}/data"}
    stages:
      - name: neg
        about: "M_neg: a LoRA on the wrong rationales (stage 1)"
        needs: [data]
        commands:
          - fit --config configs/neg.yaml --data.train {data}/negative.jsonl --trainer.default_root_dir {run}/neg
        outputs: ["{run}/neg/adapter"]
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.errors import InputError
from pipeline.fields import Fields, read_yaml
from pipeline.graph import check_directories, in_order
from pipeline.stage import Stage
from pipeline.template import substitute

_STAGE_KEYS = ("name", "about", "inputs", "needs", "commands", "outputs", "directory")
_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_VARIABLE_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Pipeline:
    """A pipeline file read and checked, every variable replaced.

    Attributes:
        file: The file it was read from.
        run: The run directory.
        variables: The value of each variable, `run` among them.
        stages: The stages, each after those it needs, otherwise in the order of the file.
    """

    file: Path
    run: Path
    variables: Mapping[str, str]
    stages: tuple[Stage, ...]


def load_pipeline(file: Path, overrides: Mapping[str, str] | None = None, run: Path | None = None) -> Pipeline:
    """Reads a pipeline file.

    Args:
        file: The YAML file.
        overrides: Values that take the place of the file's `variables`.
        run: A run directory that takes the place of the file's.

    Raises:
        InputError: If a file is missing or malformed, a key, variable or needed stage is unknown, a name comes
            twice, stages need each other in a circle, or a stage's directory is not its own.
    """
    fields = Fields(read_yaml(file), file, ("run", "include", "variables", "stages"))
    includes = [_included(file.parent / name, fields) for name in fields.texts("include")]
    templates: dict[str, str] = {}
    for part in [*includes, fields]:
        templates.update(_variables(part))
    _check_overrides(overrides or {}, templates, file)
    directory = Path(fields.text("run")) if run is None else run
    _check_run(directory, fields)
    variables = {"run": str(directory)}
    for name, text in {**templates, **(overrides or {})}.items():
        variables[name] = substitute(text, variables, file=file, field=f"variables.{name}")
    stages = [
        _stage(value, part.file, number, variables, directory)
        for part in [fields, *includes]
        for number, value in enumerate(part.items("stages"), 1)
    ]
    if not stages:
        raise fields.error("stages", "there is none", "list at least one stage, here or in a file under `include`")
    ordered = in_order(stages)
    check_directories(ordered, directory)
    return Pipeline(file, directory, variables, tuple(ordered))


def _included(path: Path, parent: Fields) -> Fields:
    if not path.is_file():
        raise parent.error("include", f"no such file: {path}", "paths under `include` are relative to this file")
    return Fields(read_yaml(path), path, ("variables", "stages"))


def _variables(fields: Fields) -> dict[str, str]:
    value = fields.get("variables")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise fields.error("variables", "a mapping was expected", "write it as {name: value}")
    for name in value:
        if not isinstance(name, str) or not _VARIABLE_NAME.fullmatch(name):
            raise fields.error(f"variables.{name}", "not a variable name", "use letters, digits and _")
        if name == "run":
            raise fields.error("variables.run", "`run` is the run directory", "set it with the key `run` or --run DIR")
    return {name: fields.scalar(text, f"variables.{name}") for name, text in value.items()}


def _check_overrides(overrides: Mapping[str, str], templates: Mapping[str, str], file: Path) -> None:
    for name in overrides:
        if name not in templates:
            remedy = "use --run DIR" if name == "run" else f"its variables are {', '.join(templates) or 'none'}"
            raise InputError(f"--set {name}=...: the pipeline has no such variable", file=file, remedy=remedy)


def _check_run(run: Path, fields: Fields) -> None:
    here = Path.cwd().resolve()
    if here.is_relative_to(run.resolve()):
        raise fields.error("run", f"'{run}' holds the working directory", "name a directory of its own, as runs/demo")


def _stage(value: Any, file: Path, number: int, variables: Mapping[str, str], run: Path) -> Stage:
    named = isinstance(value, dict) and isinstance(value.get("name"), str)
    where = f"stages.{value['name'] if named else number}"
    fields = Fields(value, file, _STAGE_KEYS, where)
    name = fields.text("name")
    if not _STAGE_NAME.fullmatch(name):
        raise fields.error("name", f"'{name}' is no stage name", "use letters, digits, - and _; it names files")

    def texts(key: str) -> tuple[str, ...]:
        return tuple(substitute(text, variables, file=file, field=f"{where}.{key}") for text in fields.texts(key))

    commands = tuple(
        tuple(substitute(word, variables, file=file, field=f"{where}.commands") for word in _words(command, fields))
        for command in fields.items("commands")
    )
    if not commands:
        raise fields.error("commands", "there is none", "list at least one, as `- fit --config FILE`")
    return Stage(
        name=name,
        about=fields.text("about", ""),
        commands=commands,
        needs=tuple(fields.texts("needs")),
        inputs=texts("inputs"),
        outputs=texts("outputs"),
        directories=texts("directory") or (str(run / name),),
        file=file,
    )


def _words(command: Any, fields: Fields) -> list[str]:
    """Splits a command as a shell would, before variables are replaced: a value with spaces stays one word."""
    if isinstance(command, list):
        words = [fields.scalar(word, "commands") for word in command]
    else:
        try:
            words = shlex.split(fields.scalar(command, "commands"))
        except ValueError as error:
            raise fields.error("commands", f"cannot be split into words ({error})", "close the quotation") from error
    if not words:
        raise fields.error("commands", "an empty command", "remove it or write `- VERB --option VALUE`")
    return words
