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


def record(**changes: Any) -> dict[str, Any]:
    asked = {"method": "nat", "dataset": "math", "question_id": "q1", "subject": "Algebra", "level": "Level 1"}
    return {**asked, "correct": 1, "answer": "1", "gold": "1", **changes}


def test_reads_below_the_run_but_nothing_hidden(tmp_path: Path) -> None:
    write(tmp_path / "test" / "nat" / "predictions.jsonl", record())
    write(tmp_path / "test" / "gsm8k" / "predictions.jsonl", record(dataset="gsm8k"))
    voted = [record(method="sc", correct=0.5, schema=1), record(method="sc", question_id="q2", correct=True)]
    write(tmp_path / "predictions.jsonl", *voted)
    write(tmp_path / ".stale" / "nat" / "predictions.jsonl", record())
    assert [(p.method, p.dataset, p.question_id, p.correct) for p in read_predictions(tmp_path)] == [
        ("sc", "math", "q1", 0.5),
        ("sc", "math", "q2", 1),
        ("nat", "gsm8k", "q1", 1),
        ("nat", "math", "q1", 1),
    ]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        *((record(correct=value), "correct") for value in (1.5, -0.1, math.nan, "1")),
        (record(method=""), "method"),
        (record(question_id=7), "question_id"),
        (record(subject="all"), "subject"),
        ({"method": "nat"}, "dataset"),
        (record(), "question_id"),
    ],
)
def test_bad_prediction_names_file_line_and_field(tmp_path: Path, bad: dict[str, Any], field: str) -> None:
    file = tmp_path / "x" / "predictions.jsonl"
    write(file, record(), bad)
    with pytest.raises(InputError) as caught:
        read_predictions(tmp_path)
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(file), 2, field)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no predictions\.jsonl"):
        read_predictions(tmp_path)
    with pytest.raises(InputError, match="no such directory"):
        read_predictions(tmp_path / "none")
