"""What a run was made with, from what its trainings and its data left: `<stage>/fit/`, summary.json, generate.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dust2gold.core.machine import described
from dust2gold.core.students import public_name
from dust2gold.core.text import escape
from dust2gold.report.analyses.methods import method_order
from dust2gold.report.section import NONE, Section, Study, reading


@dataclass(frozen=True)
class Training:
    """One training; None and "" stand for what is not recorded. `base_parameters` are the frozen ones of a plain LoRA.

    NAT's units may have a learning rate of their own, `units_learning_rate`.
    """

    stage: str
    student: str
    steps: int | None
    learning_rate: float | None
    units_learning_rate: float | None
    batch: str
    trained_parameters: int | None
    base_parameters: int | None
    seed: int | None
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""


def trainings(run: Path) -> list[Training]:
    """Every training in a run directory, in the order of the report's rows; hidden directories are left out.

    Raises:
        InputError: If a file is not as it was written.
    """
    places = {file: file.parent.parent.relative_to(run) for file in run.rglob("fit/config.yaml")}
    visible = {file: place for file, place in places.items() if not any(part.startswith(".") for part in place.parts)}
    found = [_training(file, place.as_posix()) for file, place in visible.items()]
    return sorted(found, key=lambda training: method_order(training.stage))


def _training(file: Path, stage: str) -> Training:
    recorded = file.with_name("training.json")
    with reading(file):
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        model, data = config["model"], config["data"].get("init_args") or {}
        arguments, parts = model.get("init_args") or {}, config["trainer"].get("accumulate_grad_batches") or 1
    with reading(recorded):
        facts = json.loads(recorded.read_text(encoding="utf-8")) if recorded.is_file() else {}
        parts *= facts.get("processes", 1)
        rate, factor = _at(arguments, "optimizer", "init_args", "lr"), _at(arguments, "units", "lr_factor")
        plain = model["class_path"].endswith(".NegativeModel") and arguments.get("quantization") == "none"
        return Training(
            stage,
            public_name(arguments["student"]) if arguments.get("student") else "",
            facts.get("steps"),
            rate,
            None if rate is None or factor in (None, 1) else rate * factor,
            _batch(data, parts),
            facts.get("trained_parameters"),
            facts.get("frozen_parameters") if plain else None,
            config.get("seed_everything"),
            facts.get("versions", {}),
            described(facts["machine"]) if facts else "",
        )


def _at(value: Any, *names: str) -> Any:
    """An inner value of a config; None where it is not there."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _batch(data: dict[str, Any], parts: int) -> str:
    """What an optimizer step sees: `parts` batches, accumulated and of all processes."""
    tokens, examples = data.get("tokens_per_batch"), data.get("batch_size")
    size = f"{tokens:,} tokens" if tokens else f"{examples:,} examples" if examples else ""
    return f"{parts} × {size}" if size and parts > 1 else size


def add_setup(section: Section, runs: Mapping[int, Study]) -> None:
    """Adds what one run was made with, or the first of several seeds, which differ in the seed."""
    study = next(iter(runs.values()))
    found = trainings(study.run)
    sizes = sorted({each.base_parameters for each in found if each.base_parameters is not None})
    tested = {name: max(row.n for row in study.rows if row.dataset == name) for name in study.datasets}
    versions = {", ".join(f"{name} {version}" for name, version in each.versions.items()) for each in found}
    facts = {
        "student": [*_distinct(each.student for each in found), *(f"{size:,} parameters" for size in sizes)],
        "training data": [_data(study.run)],
        "test questions": [f"{escape(name)} {count:,}" for name, count in tested.items()],
        "versions": _distinct(versions),
        "machine": _distinct(each.machine for each in found),
    }
    if len(runs) > 1:
        facts["seeds"] = [", ".join(map(str, runs)) + "; the rest is of the first"]
    section.add("## Set-up")
    body = [[name, ", ".join(values) or NONE] for name, values in facts.items()]
    explained = "what was recorded while the run was made; `-` is not recorded."
    section.add_table(["", "of this run"], body, explained, texts=2)
    heading = ["stage", "steps", "learning rate", "batch", "trained parameters", "seed"]
    explained = "the last training of each stage; a batch is what one optimizer step sees."
    if found:
        section.add_table(heading, [_cells(each) for each in found], explained)
        section.add_numbers("set-up", found)


def _distinct(texts: Any) -> list[str]:
    return [escape(text) for text in sorted(set(texts)) if text]


def _cells(training: Training) -> list[str]:
    cells: Sequence[int | None] = (training.steps, training.trained_parameters)
    steps, parameters = (NONE if number is None else f"{number:,}" for number in cells)
    rate = NONE if training.learning_rate is None else f"{training.learning_rate:g}"
    if training.units_learning_rate is not None:
        rate += f", units {training.units_learning_rate:g}"
    seed = NONE if training.seed is None else str(training.seed)
    return [escape(training.stage), steps, rate, training.batch or NONE, parameters, seed]


def _data(run: Path) -> str:
    """The teacher's data."""
    summary, recipe = run / "data" / "summary.json", run / "raw" / "generate.json"
    if not summary.is_file():
        return NONE
    with reading(summary):
        counts = json.loads(summary.read_text(encoding="utf-8"))
        asked, right, wrong = (f"{int(counts[name]):,}" for name in ("questions", "positive", "negative"))
    text = f"{asked} questions, {right} right samples (D_pos), {wrong} wrong ones (D_neg)"
    if recipe.is_file():
        with reading(recipe):
            text += f", generated with seed {int(json.loads(recipe.read_text(encoding='utf-8'))['seed'])}"
    return text
