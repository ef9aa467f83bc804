"""predictions.jsonl and metrics.json: what a test leaves behind, and what `report` reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datamodules.components.records.records import Rationale
from dust2gold.core.files import write_json
from dust2gold.core.jsonl import write_json_lines

Row = dict[str, Any]


def prediction(record: Rationale, method: str) -> Row:
    """The row of one graded answer, with the rationale that explains it."""
    return {
        "method": method,
        "dataset": record.source,
        "question_id": record.question_id,
        "subject": record.subject,
        "level": record.level,
        "correct": float(record.verdict == "positive"),
        "answer": record.answer,
        "gold": record.gold,
        "rationale": record.rationale,
    }


def accuracies(rows: Sequence[Row]) -> dict[str, float]:
    """Mean of `correct` over all rows ("accuracy") and over each level and subject ("accuracy/level/Level 1")."""
    groups: dict[str, list[float]] = {"accuracy": []}
    for row in rows:
        names = [f"/{kind}/{row[kind]}" for kind in ("level", "subject") if row[kind]]
        for name in ("", *names):
            groups.setdefault(f"accuracy{name}", []).append(row["correct"])
    return {name: math.fsum(values) / len(values) if values else math.nan for name, values in sorted(groups.items())}


def write_predictions(directory: Path, rows: Iterable[Row]) -> Path:
    """Writes predictions.jsonl whole or not at all.

    The lines are sorted by method, data set and question, of which each stands there once: the file does not depend on
    how the questions were spread over devices.
    """
    unique = {(row["method"], row["dataset"], row["question_id"]): row for row in rows}
    path = directory / "predictions.jsonl"
    write_json_lines(path, ({"schema": 1, **unique[key]} for key in sorted(unique)))
    return path


def write_metrics(directory: Path, metrics: dict[str, float]) -> Path:
    """Writes metrics.json, sorted by name, whole or not at all; what JSON cannot hold (NaN, infinity) becomes null."""
    values = {name: value if math.isfinite(value) else None for name, value in sorted(metrics.items())}
    path = directory / "metrics.json"
    write_json(path, values, indent=2)
    return path
