"""The bootstrap against a slow one that draws every seed and question, Holm against hand values."""

import random

import numpy as np
import pytest

from dust2gold.study.statistics import Array, holm, paired_difference, resampled_means


def slow_means(differences: list[Array], resamples: int) -> list[float]:
    """Draws seeds, and for each its questions, one by one."""
    generator = random.Random(1)
    means = []
    for _ in range(resamples):
        drawn = generator.choices(differences, k=len(differences))
        means.append(float(np.mean([np.mean(generator.choices(own.tolist(), k=len(own))) for own in drawn])))
    return means


def drawn(*means: float, questions: int = 60) -> list[Array]:
    """Differences of −1, 0, 1 and of halves, which ties of votes make, one array a seed."""
    generator = np.random.default_rng(5)
    values = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    return [generator.choice(values, questions, p=[0.1, 0.1, 0.6 - mean, 0.1, 0.1 + mean]) for mean in means]


@pytest.mark.parametrize("means", [(0.1,), (0.0, 0.3), (0.1, 0.2, 0.0, 0.4, 0.3)])
def test_resampled_means_are_distributed_as_slow_ones(means: tuple[float, ...]) -> None:
    differences = drawn(*means)
    fast, slow = resampled_means(differences, 20_000, seed=0), slow_means(differences, 4_000)
    assert fast.mean() == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / 4_000**0.5)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.06)
    for share in (0.025, 0.25, 0.75, 0.975):
        assert np.quantile(fast, share) == pytest.approx(np.quantile(slow, share), abs=0.15 * np.std(slow))


def test_deviation_of_resampled_means_is_that_of_the_formula() -> None:
    """Between seeds (divided by n, as resampled) and within them, both over the number of seeds."""
    differences = drawn(0.0, 0.2, 0.4, questions=200)
    between = np.var([own.mean() for own in differences]) / 3
    within = np.mean([own.var() / len(own) for own in differences]) / 3
    error = paired_difference(differences, resamples=100_000).error
    assert error == pytest.approx((between + within) ** 0.5, rel=0.02)


def test_hand_values() -> None:
    found = paired_difference([np.array([1.0, 1.0]), np.array([0.0, 0.0])])
    assert found.by_seed == (1.0, 0.0)
    assert found.mean == 0.5
    assert (found.low, found.high) == (0.0, 1.0)  # both seeds alike in a quarter of the resamples each
    assert found.error == pytest.approx(0.5**0.5 / 2, rel=0.02)
    assert found.p == pytest.approx(0.5, rel=0.05)
    assert found.detectable == pytest.approx(2.8 * found.error)
    assert found.student == pytest.approx((0.5 - 6.35310, 0.5 + 6.35310), rel=1e-5)  # t(0.975, 1) = 12.7062, s / √2 = ½
    assert paired_difference([np.array([1.0, 0.0])]).student is None


@pytest.mark.parametrize(
    ("differences", "p"), [([[0.0, 0.0]] * 2, 1.0), ([[1.0, 1.0]] * 2, 2 / 10_001), ([[-1.0, -1.0]], 2 / 10_001)]
)
def test_p_at_its_ends(differences: list[list[float]], p: float) -> None:
    assert paired_difference([np.array(own) for own in differences]).p == p


def test_same_data_give_the_same_numbers_and_seeds_are_told_apart() -> None:
    differences = drawn(0.1, 0.3)
    assert paired_difference(differences) == paired_difference(differences)
    assert paired_difference(differences).low != paired_difference(differences, seed=1).low
    apart = paired_difference(drawn(-0.1, 0.5))
    assert apart.error > 1.5 * paired_difference(drawn(0.2, 0.2)).error


def test_p_keeps_its_promise_where_nothing_differs() -> None:
    """Questions of both methods alike, seeds alike: about 5 of 100 studies may say otherwise; fewer, as it is wide."""
    generator = np.random.default_rng(0)
    values = [-1.0, 0.0, 1.0]
    found = [
        paired_difference([generator.choice(values, 200) for _ in range(5)], resamples=1000).p < 0.05
        for _ in range(200)
    ]
    assert sum(found) <= 16


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6, 0.01], [1.0, 1.0, 0.03]),
    ],
)
def test_holm(given: list[float], corrected: list[float]) -> None:
    assert holm(given) == pytest.approx(corrected)
