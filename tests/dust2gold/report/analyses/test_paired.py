from __future__ import annotations

from itertools import product

import pytest

from dust2gold.report.analyses.paired import compare, mcnemar
from dust2gold.report.analyses.predictions import Prediction


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (0, 5), (3, 3), (6, 1), (2, 9), (7, 6)])
def test_mcnemar_equals_flipping_a_coin_for_every_discordant_question(better: int, worse: int) -> None:
    n = better + worse
    distance = abs(better - worse)
    flips = [sum(outcome) for outcome in product((0, 1), repeat=n)]
    extreme = sum(abs(2 * heads - n) >= distance for heads in flips)
    assert mcnemar(better, worse) == pytest.approx(extreme / len(flips))


def test_mcnemar_of_thousands() -> None:
    assert mcnemar(1000, 1000) == 1
    # Normal approximation with continuity correction: z = (|b − c| − 1) / √(b + c) = 1.93290, p = 0.05325.
    assert mcnemar(1500, 1395) == pytest.approx(0.05325, abs=1e-4)
    assert mcnemar(3000, 1000) < 1e-100


def one(method: str, values: list[float]) -> list[Prediction]:
    return [Prediction(method, "d", str(i), "", value) for i, value in enumerate(values)]


def test_ties_count_by_their_sign() -> None:
    found = compare([*one("cot-kd", [0, 0, 0, 1, 1]), *one("sc", [0.5, 1, 1 / 3, 0.5, 1])], "d", "sc", "cot-kd")
    assert (found.better, found.worse) == (3, 1)
    assert found.p_value == pytest.approx(2 * 5 / 16)
    assert found.points == pytest.approx(100 * (0.5 + 1 + 1 / 3 - 0.5) / 5)


def test_equal_methods_cannot_be_told_apart() -> None:
    found = compare([*one("cot-kd", [0, 1]), *one("nat", [0, 1])], "d", "nat", "cot-kd")
    assert (found.points, found.p_value) == (0, 1)


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
