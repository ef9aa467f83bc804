"""A pipeline file: where the run goes, its variables, and the stages with the command lines each consists of.

What several stages share is said once, in a template; a stage gives its parameters under `with`. `{stage}` is a stage's
name, `{*name}` as many words as the value of `name` has (`template.Scope`). A stage that needs "*" needs all others.

Example::

    run: runs/demo
    include: [pipeline/stages.yaml]
    variables: {student: embedded, decoder: "--model.student {student} --data.tokenizer {student}"}
    templates:
      trained:
        parameters: {train: null, options: ""}     # null: every stage must give it
        commands:
          - fit --config configs/neg.yaml {*decoder} {*options} --data.train {train}
            --trainer.default_root_dir {run}/{stage}
        outputs: ["{run}/{stage}/adapter"]
    stages:
      - name: neg
        template: trained
        about: "M_neg: a LoRA on the wrong rationales (stage 1)"
        needs: [data]
        with: {train: "{run}/data/negative.jsonl"}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dust2gold.core.errors import InputError
from dust2gold.run.fields import Fields, read_yaml
from dust2gold.run.graph import check_directories, in_order
from dust2gold.run.stage import Stage
from dust2gold.run.stage_reader import StageReader, read_templates
from dust2gold.run.template import Scope, names_in

_SHARED_KEYS = ("variables", "templates", "stages")
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
        InputError: If a file is missing or malformed, a key, variable, template or needed stage is unknown, a name
            comes twice, stages need each other in a circle, or a stage's directory is not its own.
    """
    fields = Fields(read_yaml(file), file, ("run", "include", *_SHARED_KEYS))
    includes = [_included(file.parent / name, fields) for name in fields.texts("include")]
    parts = [*includes, fields]
    directory = Path(fields.text("run")) if run is None else run
    _check_run(directory, fields)
    scope = _scope(directory, parts, overrides or {}, file)
    templates = {name: template for part in parts for name, template in read_templates(part).items()}
    reader = StageReader(scope, templates, directory)
    stages = [
        reader.read(value, part.file, number)
        for part in [fields, *includes]
        for number, value in enumerate(part.items("stages"), 1)
    ]
    if not stages:
        raise fields.error("stages", "there is none", "list at least one stage, here or in a file under `include`")
    ordered = in_order(stages)
    check_directories(ordered, directory)
    return Pipeline(file, directory, scope.values, tuple(ordered))


def _included(path: Path, parent: Fields) -> Fields:
    if not path.is_file():
        raise parent.error("include", f"no such file: {path}", "paths under `include` are relative to this file")
    return Fields(read_yaml(path), path, _SHARED_KEYS)


def _scope(run: Path, parts: list[Fields], overrides: Mapping[str, str], file: Path) -> Scope:
    """The variables of all files, a later file's in the place of an earlier one's, overrides in the place of both."""
    texts: dict[str, str] = {}
    for part in parts:
        texts.update(_variables(part))
    for name in overrides:
        if name not in texts:
            remedy = "use --run DIR" if name == "run" else f"its variables are {', '.join(texts) or 'none'}"
            raise InputError(f"--set {name}=...: the pipeline has no such variable", file=file, remedy=remedy)
    scope, waiting = Scope({"run": str(run)}), {**texts, **overrides}
    while waiting:
        ready = next((name for name, text in waiting.items() if not names_in(text) & waiting.keys()), None)
        if ready is None:
            name = next(iter(waiting))
            problem = f"variables use each other in a circle: {', '.join(waiting)}"
            raise InputError(problem, file=file, field=f"variables.{name}", remedy="write one of them out")
        scope.define(ready, waiting.pop(ready), file=file, field=f"variables.{ready}")
    return scope


def _variables(fields: Fields) -> dict[str, str]:
    texts = fields.mapping("variables")
    for name in texts:
        if not _VARIABLE_NAME.fullmatch(name):
            raise fields.error(f"variables.{name}", "not a variable name", "use letters, digits and _")
        if name == "run":
            raise fields.error("variables.run", "`run` is the run directory", "set it with the key `run` or --run DIR")
        if name == "stage":
            raise fields.error("variables.stage", "`stage` is each stage's own name", "choose another name")
    return {name: fields.scalar(text, f"variables.{name}") for name, text in texts.items()}


def _check_run(run: Path, fields: Fields) -> None:
    here = Path.cwd().resolve()
    if here.is_relative_to(run.resolve()):
        raise fields.error("run", f"'{run}' holds the working directory", "name a directory of its own, as runs/demo")
