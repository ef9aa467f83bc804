import math
import random
from itertools import product

import pytest

from dust2gold.report.analyses.paired import Comparison, compare, compare_pairs, sign_flip
from dust2gold.report.analyses.predictions import Prediction
from tests.dust2gold.report.analyses.synthetic import predictions


def by_brute_force(gains: list[float]) -> float:
    """The share of all ways to flip signs whose sum is at least as far from 0."""
    flipped = [math.fsum(s * gain for s, gain in zip(signs, gains, strict=True)) for signs in signs_of(len(gains))]
    return sum(abs(total) >= abs(math.fsum(gains)) - 1e-9 for total in flipped) / len(flipped)


def signs_of(n: int) -> list[tuple[int, ...]]:
    return list(product((-1, 1), repeat=n))


def mcnemar(better: int, worse: int) -> float:
    """Twice the binomial tail, of whole numbers up to the last step."""
    n = better + worse
    return min(1.0, sum(math.comb(n, k) for k in range(min(better, worse) + 1)) / (1 << (n - 1)))


@pytest.mark.parametrize("seed", range(30))
def test_the_test_is_that_of_all_flips(seed: int) -> None:
    """Differences of shares of ties among up to 8 answers, and of right and wrong answers, many of them equal."""
    numbers = random.Random(seed)
    shares = [0.0, 1.0] if seed % 3 == 0 else [0.0, 1.0, *(1 / numbers.randint(2, 8) for _ in range(4))]
    gains = [numbers.choice(shares) - numbers.choice(shares) for _ in range(numbers.randint(1, 12))]
    assert sign_flip(gains) == pytest.approx(by_brute_force(gains), rel=1e-12)


@pytest.mark.parametrize(
    ("better", "worse"), [(1, 0), (0, 5), (3, 3), (6, 1), (1000, 1000), (1500, 1395), (3000, 1000)]
)
def test_of_right_and_wrong_answers_it_is_mcnemars(better: int, worse: int) -> None:
    assert sign_flip([1.0] * better + [0.0] * 7 + [-1.0] * worse) == pytest.approx(mcnemar(better, worse), rel=1e-9)


def test_an_eighth_of_a_vote_is_no_whole_win() -> None:
    gains = [1 / 8] * 60 + [-1.0] * 40
    assert sign_flip(gains) < 1e-6 < mcnemar(60, 40)
    assert sign_flip([-gain for gain in gains]) == sign_flip(gains)
    assert sign_flip([]) == sign_flip([0.0]) == 1


def test_thousands_of_ties_among_many_answers() -> None:
    numbers = random.Random(0)
    gains = [numbers.choice((1, -1)) / numbers.randint(1, 16) for _ in range(3000)]
    # Normal approximation: the variance of a flipped sum is the sum of squares.
    z = abs(math.fsum(gains)) / math.sqrt(math.fsum(gain**2 for gain in gains))
    assert sign_flip(gains) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.01)


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


def test_ties_count_as_their_share() -> None:
    found = compared([0, 0, 0, 1, 1], [0.5, 1, 1 / 3, 0.5, 1])
    assert (found.better, found.worse) == (3, 1)
    # Of the 16 ways to flip 1/2, 1, 1/3 and -1/2 four reach 4/3 and four -4/3.
    assert found.p_value == pytest.approx(by_brute_force([0.5, 1, 1 / 3, -0.5]))
    assert found.points == pytest.approx(100 * (0.5 + 1 + 1 / 3 - 0.5) / 5)


def test_pairs_that_a_run_lacks_are_left_out() -> None:
    made = [*predictions("nce", {"A": [1, 0]}), *predictions("nat", {"A": [0, 0]}), *predictions("kd", {"B": [1]})]
    found = compare_pairs(made, "math", [("nce", "kd"), ("nce", "nat"), ("nat", "cot-kd")])
    assert list(found) == [("nce", "nat")], "nce and kd answered no question in common"
    assert found["nce", "nat"] == compare(made, "math", "nce", "nat")


def test_little_to_compare() -> None:
    equal = compared([0, 1], [0, 1])
    assert (equal.points, equal.p_value) == (0, 1)
    assert compared([0], [1]).margin is None
    assert compared([], [1]).shared == 0
