from __future__ import annotations

import math
from pathlib import Path

import pytest

from dust2gold.report.analyses.accuracy import tabulate
from dust2gold.report.analyses.seeds import over_seeds, seed_runs, spread
from tests.dust2gold.report.analyses.synthetic import predictions


def test_spread_by_hand() -> None:
    found = spread([1, 2, 6])
    # Deviations −2, −1, 3: squares sum to 14, over n − 1 = 2.
    assert (found.seeds, found.mean, found.low, found.high) == (3, 3, 1, 6)
    assert found.deviation == pytest.approx(math.sqrt(7))
    assert spread([4]).deviation is None


def test_points_are_against_the_baseline_of_the_same_seed() -> None:
    runs = {
        0: tabulate([*predictions("cot-kd", {"A": [0, 0]}), *predictions("nat", {"A": [1, 0]})]),
        1: tabulate([*predictions("cot-kd", {"A": [1, 1]}), *predictions("nat", {"A": [1, 1]})]),
        2: tabulate(predictions("nat", {"A": [1, 1]})),
    }
    rows = {(row.method, row.subject): row for row in over_seeds(runs)}
    nat = rows["nat", "all"]
    assert nat.accuracy.seeds == 3
    assert nat.accuracy.mean == pytest.approx(2.5 / 3)
    assert nat.points is not None
    assert (nat.points.seeds, nat.points.mean, nat.points.low, nat.points.high) == (2, 25, 0, 50)
    assert rows["cot-kd", "all"].points is None
    assert list(rows) == [("cot-kd", "A"), ("cot-kd", "all"), ("nat", "A"), ("nat", "all")]


def test_finds_the_runs_in_the_order_of_their_seeds(tmp_path: Path) -> None:
    for name in ("seed-10", "seed-2", "seed-x", "data", "seed-1-old"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed-3").touch()
    assert list(seed_runs(tmp_path)) == [2, 10]
