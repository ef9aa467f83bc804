import json
from pathlib import Path

import pytest

from dust2gold.core.errors import InputError
from dust2gold.report.analyses.accuracy import tabulate
from dust2gold.report.analyses.negatives import Negatives, negatives_study
from dust2gold.report.analyses.predictions import Prediction
from tests.dust2gold.report.analyses.synthetic import predictions

NAT = predictions("nat", {"A": [1, 1, 0, 0]})
RIGHT = {"nat-no-negatives": 1, "nat-negatives-5": 0, "nat-negatives-50": 3, "nat-semantic": 4, "cot-kd": 0}
OTHERS = [p for method, n in RIGHT.items() for p in predictions(method, {"A": [1] * n + [0] * (4 - n)})]


def study(run: Path, made: list[Prediction]) -> list[Negatives]:
    return negatives_study(run, tabulate(made), made)


def summary(run: Path, data: str, negative: object, positive: int = 0) -> None:
    (run / data).mkdir()
    (run / data / "summary.json").write_text(json.dumps({"negative": negative, "positive": positive}))


def test_rows_by_share_with_their_counts(tmp_path: Path) -> None:
    summary(tmp_path, "data", 1001, 700)
    summary(tmp_path, "data-semantic", 900, 801)
    summary(tmp_path, "data-negatives-5", 49, 35)
    found = study(tmp_path, [*NAT, *OTHERS])
    assert [(row.method, row.share, row.negative, row.positive) for row in found] == [
        ("nat-no-negatives", 0, 0, 700),
        ("nat-negatives-5", 5, 49, 700),
        ("nat-negatives-50", 50, None, 700),
        ("nat", 100, 1001, 700),
        ("nat-semantic", 100, 900, 801),
    ]
    against = [a and (a.points, a.better, a.worse) for a in (row.against_nat for row in found)]
    assert against == [(-25, 0, 1), (-50, 0, 2), (25, 1, 0), None, (50, 2, 0)]


def test_what_is_missing_or_damaged(tmp_path: Path) -> None:
    assert study(tmp_path, NAT) == study(tmp_path, OTHERS) == [], "there is nothing to compare"
    unknown = [(0, None), *[(None, None)] * 4]
    assert [(row.negative, row.positive) for row in study(tmp_path, [*NAT, *OTHERS])] == unknown
    summary(tmp_path, "data", "many")
    with pytest.raises(InputError, match=r"summary\.json"):
        study(tmp_path, [*NAT, *OTHERS])
