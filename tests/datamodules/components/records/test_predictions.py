import json
import math
from pathlib import Path
from typing import Any

from datamodules.components.records.predictions import prediction, write_metrics, write_predictions
from datamodules.components.records.records import rationale_for
from dust2gold.core.jsonl import read_json_lines
from tests.records import question


def test_predictions_are_sorted_and_each_stands_once(tmp_path: Path) -> None:
    def row(method: str, name: str) -> dict[str, Any]:
        return {"method": method, "dataset": "d", "question_id": name, "correct": 1.0}

    write_predictions(tmp_path / "new", [row("ws", "2"), row("sc", "2"), row("ws", "1"), row("sc", "2")])
    lines = (tmp_path / "new" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    found = [(row["method"], row["question_id"]) for row in map(json.loads, lines)]
    assert found == [("sc", "2"), ("ws", "1"), ("ws", "2")]


def test_a_row_keeps_its_rationale_whatever_is_in_it(tmp_path: Path) -> None:
    text = 'a\r\nb\u2028c\x1b[31m "</script>" \\boxed{1}\ud7ff\U0001f600'
    rows = [prediction(rationale_for(question(number), 0, text, "nat"), "nat") for number in (0, 1)]
    assert [row["rationale"] for _, row in read_json_lines(write_predictions(tmp_path, rows))] == [text, text]


def test_metrics_are_valid_json(tmp_path: Path) -> None:
    path = write_metrics(tmp_path, {"b": math.nan, "a": 0.5})
    assert path.read_text() == '{\n  "a": 0.5,\n  "b": null\n}\n'
