from __future__ import annotations

import json
from pathlib import Path

import pytest

from dust2gold.core.errors import InputError
from dust2gold.report.analyses.accuracy import tabulate
from dust2gold.report.analyses.negatives import negatives_study
from tests.dust2gold.report.analyses.synthetic import predictions

MADE = [
    *predictions("nat", {"A": [1, 1, 0, 0]}),
    *predictions("nat-no-negatives", {"A": [1, 0, 0, 0]}),
    *predictions("nat-negatives-5", {"A": [0, 0, 0, 0]}),
    *predictions("nat-negatives-50", {"A": [1, 1, 1, 0]}),
    *predictions("nat-semantic", {"A": [1, 1, 1, 1]}),
    *predictions("cot-kd", {"A": [0, 0, 0, 0]}),
]


def summary(file: Path, negative: object, positive: int = 0) -> None:
    file.parent.mkdir()
    file.write_text(json.dumps({"negative": negative, "positive": positive}))


def test_rows_by_share_with_their_counts(tmp_path: Path) -> None:
    summary(tmp_path / "data" / "summary.json", 1001, 700)
    summary(tmp_path / "data-semantic" / "summary.json", 900, 801)
    summary(tmp_path / "data-negatives-5" / "summary.json", 49, 35)
    found = negatives_study(tmp_path, tabulate(MADE), MADE)
    assert [(row.method, row.share, row.negative, row.positive) for row in found] == [
        ("nat-no-negatives", 0, 0, 700),
        ("nat-negatives-5", 5, 49, 700),
        ("nat-negatives-50", 50, None, 700),
        ("nat", 100, 1001, 700),
        ("nat-semantic", 100, 900, 801),
    ]
    against = [row.against_nat for row in found]
    assert [None if a is None else (a.points, a.better, a.worse) for a in against] == [
        (-25, 0, 1),
        (-50, 0, 2),
        (25, 1, 0),
        None,
        (50, 2, 0),
    ]


def test_without_summaries_the_counts_are_unknown(tmp_path: Path) -> None:
    found = negatives_study(tmp_path, tabulate(MADE), MADE)
    assert [row.negative for row in found] == [0, None, None, None, None]
    assert {row.positive for row in found} == {None}


def test_nat_alone_is_no_study(tmp_path: Path) -> None:
    alone = MADE[:4]
    assert negatives_study(tmp_path, tabulate(alone), alone) == []
    without = MADE[4:]
    assert negatives_study(tmp_path, tabulate(without), without) == []


def test_a_bad_summary_is_named(tmp_path: Path) -> None:
    summary(tmp_path / "data" / "summary.json", "many")
    with pytest.raises(InputError, match=r"summary\.json"):
        negatives_study(tmp_path, tabulate(MADE), MADE)
