import math
from pathlib import Path

import pytest

from dust2gold.report.analyses.accuracy import tabulate
from dust2gold.report.analyses.predictions import Prediction
from dust2gold.report.analyses.seeds import Spread, differences, over_seeds, seed_runs, spread, t_quantile
from tests.dust2gold.report.analyses.synthetic import predictions


def test_spread_by_hand() -> None:
    # Deviations −2, −1, 3: squares sum to 14, over n − 1 = 2.
    assert spread([1, 2, 6]) == Spread(3, 3, math.sqrt(7), 1, 6)
    assert spread([4]) == Spread(1, 4, None, 4, 4)


def test_points_are_against_the_baseline_of_the_same_seed() -> None:
    runs = {
        0: tabulate([*predictions("cot-kd", {"A": [0, 0]}), *predictions("nat", {"A": [1, 0]})]),
        1: tabulate([*predictions("cot-kd", {"A": [1, 1]}), *predictions("nat", {"A": [1, 1]})]),
        2: tabulate(predictions("nat", {"A": [1, 1]})),
    }
    rows = {(row.method, row.subject): row for row in over_seeds(runs)}
    nat = rows["nat", "all"]
    assert nat.accuracy == spread([0.5, 1, 1])
    assert nat.points == spread([50, 0])
    assert rows["cot-kd", "all"].points is None
    assert list(rows) == [("cot-kd", "A"), ("cot-kd", "all"), ("nat", "A"), ("nat", "all")]


def test_quantiles_of_students_t() -> None:
    table = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 9: 2.26216, 30: 2.04227, 101: 1.98373}
    assert {freedom: t_quantile(freedom) for freedom in table} == pytest.approx(table, rel=2e-6)


def test_differences_are_paired_within_each_seed() -> None:
    def run(nat: list[float], nce: list[float], *more: Prediction) -> list[Prediction]:
        return [*predictions("nat", {"A": nat}), *predictions("nce", {"A": nce}), *more]

    runs = {
        0: run([0, 0, 0, 1], [1, 0]),  # +50 on the two that both answered
        1: run([1, 0], [1, 0], *predictions("cot-kd", {"A": [0, 0]})),  # 0
        2: run([0], [1]),  # +100
        3: predictions("nce", {"A": [1]}),
    }
    found = {(row.method, row.baseline): row for row in differences(runs)}
    assert list(found) == [("nat", "cot-kd"), ("nce", "cot-kd"), ("nce", "nat")]
    assert found["nce", "nat"].points == Spread(3, 50, 50, 0, 100)
    assert found["nce", "nat"].margin == pytest.approx(4.30265 * 50 / math.sqrt(3), rel=1e-5)
    assert (found["nat", "cot-kd"].points.mean, found["nat", "cot-kd"].margin) == (50, None)


def test_finds_the_runs_in_the_order_of_their_seeds(tmp_path: Path) -> None:
    for name in ("seed-10", "seed-2", "seed-x", "data", "seed-1-old"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed-3").touch()
    assert list(seed_runs(tmp_path)) == [2, 10]
