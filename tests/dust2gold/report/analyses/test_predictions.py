from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dust2gold.core.errors import InputError
from dust2gold.report.analyses.predictions import read_predictions


def write(path: Path, *records: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def record(
    method: str = "nat", question_id: Any = "q1", correct: Any = 1, subject: str = "Algebra", **more: Any
) -> dict[str, Any]:
    return {
        "method": method,
        "dataset": "math",
        "question_id": question_id,
        "subject": subject,
        "level": "Level 1",
        "correct": correct,
        "answer": "1",
        "gold": "1",
        **more,
    }


def test_reads_below_the_run_but_nothing_hidden(tmp_path: Path) -> None:
    write(tmp_path / "test" / "nat" / "predictions.jsonl", record())
    write(tmp_path / "predictions.jsonl", record("sc", correct=0.5, schema=1), record("sc", "q2", correct=True))
    write(tmp_path / ".stale" / "nat" / "predictions.jsonl", record())
    found = read_predictions(tmp_path)
    assert [(p.method, p.question_id, p.correct) for p in found] == [
        ("sc", "q1", 0.5),
        ("sc", "q2", 1),
        ("nat", "q1", 1),
    ]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (record(correct=1.5), "correct"),
        (record(correct=-0.1), "correct"),
        (record(correct=math.nan), "correct"),
        (record(correct="1"), "correct"),
        (record(method=""), "method"),
        (record(question_id=7), "question_id"),
        (record(subject="all"), "subject"),
        ({"method": "nat"}, "dataset"),
        (record(), "question_id"),
    ],
)
def test_bad_prediction_names_file_line_and_field(tmp_path: Path, bad: dict[str, Any], field: str | None) -> None:
    write(tmp_path / "x" / "predictions.jsonl", record(), bad)
    with pytest.raises(InputError) as caught:
        read_predictions(tmp_path)
    assert (caught.value.file, caught.value.line, caught.value.field) == (
        str(tmp_path / "x" / "predictions.jsonl"),
        2,
        field,
    )


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no predictions\.jsonl"):
        read_predictions(tmp_path)
    with pytest.raises(InputError, match="no such directory"):
        read_predictions(tmp_path / "none")
