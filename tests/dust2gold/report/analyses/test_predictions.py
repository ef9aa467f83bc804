from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dust2gold.core.errors import InputError
from dust2gold.report.analyses.accuracy import tabulate, wilson_interval
from dust2gold.report.analyses.methods import method_order
from dust2gold.report.analyses.paired import compare
from dust2gold.report.analyses.predictions import Prediction, read_predictions


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


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # Newcombe 1998, table I: Wilson's interval without continuity correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # By hand: n = 1, z² = 3.8415, (1 + 1.92073) / 4.84146 ± 1.96·√(0.960365) / 4.84146.
        (1, 1, 0.2065, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_against_published_values(correct: float, n: int, low: float, high: float) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5.1e-5)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_ends_solve_the_score_equation(n: int, share: float) -> None:
    """Each end p solves (share − p)² = z²·p(1 − p)/n, which defines the interval."""
    correct = share * n
    for end, side in zip(wilson_interval(correct, n), (1, -1), strict=True):
        assert 0 <= end <= 1
        expected = 1.959963984540054 * math.sqrt(max(end * (1 - end), 0) / n)
        assert side * (correct / n - end) == pytest.approx(expected, abs=1e-7)


def test_wilson_refuses_nonsense() -> None:
    for correct, n in ((3, 2), (-1, 2), (math.nan, 2)):
        with pytest.raises(ValueError, match="correct of"):
            wilson_interval(correct, n)


def test_methods_come_in_the_papers_order() -> None:
    names = ["zeta", "asc", "ws", "cot-kd", "nce", "alpha", "sc", "nat", "neg"]
    assert sorted(names, key=method_order) == ["cot-kd", "neg", "nat", "nce", "sc", "ws", "asc", "alpha", "zeta"]


def test_counts_by_subject_and_overall_with_fractional_ties() -> None:
    thirds = [Prediction("sc", "d", str(i), "A", 1 / 3) for i in range(3)]
    rows = tabulate([*thirds, Prediction("sc", "d", "9", "B", 0.5), Prediction("sc", "d", "10", "", 0)])
    assert [(row.subject, row.n, row.correct) for row in rows] == [("A", 3, 1.0), ("B", 1, 0.5), ("all", 5, 1.5)]
    assert rows[2].accuracy == pytest.approx(0.3)
    assert (rows[2].ci_low, rows[2].ci_high) == wilson_interval(1.5, 5)


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


def test_comparison_is_paired_on_shared_questions() -> None:
    base = [Prediction("cot-kd", "d", str(i), "", value) for i, value in enumerate([1, 0, 0, 1, 1])]
    ours = [Prediction("nat", "d", str(i), "", value) for i, value in enumerate([1, 1, 0.5, 0])]
    other = [Prediction("nat", "e", "4", "", 0)]
    found = compare([*base, *ours, *other], "d", "nat", "cot-kd")
    # Gains 0, 1, 0.5, -1: mean 0.125, squared deviations sum to 2.1875, so sd² = 0.7291667 and se = 0.4269563.
    assert (found.shared, found.better, found.worse) == (4, 2, 1)
    assert found.points == pytest.approx(12.5)
    assert found.margin == pytest.approx(100 * 1.959964 * 0.4269563, abs=1e-4)


def test_comparison_of_one_or_no_shared_question_has_no_margin() -> None:
    one = [Prediction("nat", "d", "1", "", 1), Prediction("cot-kd", "d", "1", "", 0)]
    assert compare(one, "d", "nat", "cot-kd").margin is None
    assert compare(one[:1], "d", "nat", "cot-kd").shared == 0
