from itertools import product

import pytest

from dust2gold.report.analyses.paired import Comparison, compare, mcnemar
from dust2gold.report.analyses.predictions import Prediction


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (0, 5), (3, 3), (6, 1), (2, 9), (7, 6)])
def test_mcnemar_equals_flipping_a_coin_for_every_discordant_question(better: int, worse: int) -> None:
    n = better + worse
    flips = [sum(outcome) for outcome in product((0, 1), repeat=n)]
    extreme = sum(abs(2 * heads - n) >= abs(better - worse) for heads in flips)
    assert mcnemar(better, worse) == pytest.approx(extreme / len(flips))


def test_mcnemar_of_thousands() -> None:
    assert mcnemar(1000, 1000) == 1
    # Normal approximation with continuity correction: z = (|b − c| − 1) / √(b + c) = 1.93290, p = 0.05325.
    assert mcnemar(1500, 1395) == pytest.approx(0.05325, abs=1e-4)
    assert mcnemar(3000, 1000) < 1e-100


def compared(baseline: list[float], ours: list[float]) -> Comparison:
    """Of methods that answered the first so many questions of one data set; another data set counts nowhere."""
    made = {"cot-kd": baseline, "nat": ours}
    rows = [Prediction(method, "d", str(i), "", value) for method in made for i, value in enumerate(made[method])]
    return compare([*rows, Prediction("nat", "e", "4", "", 0)], "d", "nat", "cot-kd")


def test_comparison_is_paired_on_shared_questions() -> None:
    found = compared([1, 0, 0, 1, 1], [1, 1, 0.5, 0])
    # Gains 0, 1, 0.5, -1: mean 0.125, squared deviations sum to 2.1875, so sd² = 0.7291667 and se = 0.4269563.
    assert (found.shared, found.better, found.worse) == (4, 2, 1)
    assert found.points == pytest.approx(12.5)
    assert found.margin == pytest.approx(100 * 1.959964 * 0.4269563, abs=1e-4)


def test_ties_count_by_their_sign() -> None:
    found = compared([0, 0, 0, 1, 1], [0.5, 1, 1 / 3, 0.5, 1])
    assert (found.better, found.worse) == (3, 1)
    assert found.p_value == pytest.approx(2 * 5 / 16)
    assert found.points == pytest.approx(100 * (0.5 + 1 + 1 / 3 - 0.5) / 5)


def test_little_to_compare() -> None:
    equal = compared([0, 1], [0, 1])
    assert (equal.points, equal.p_value) == (0, 1)
    assert compared([0], [1]).margin is None
    assert compared([], [1]).shared == 0
