import math
from pathlib import Path

from dust2gold.report.analyses.accuracy import tabulate
from dust2gold.report.analyses.seeds import Spread, over_seeds, seed_runs, spread
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


def test_finds_the_runs_in_the_order_of_their_seeds(tmp_path: Path) -> None:
    for name in ("seed-10", "seed-2", "seed-x", "data", "seed-1-old"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed-3").touch()
    assert list(seed_runs(tmp_path)) == [2, 10]
