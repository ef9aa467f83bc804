import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.components.voting.stopping import lead_probabilities, lead_probability


def integrated(first: float, second: float, steps: int = 20_000) -> float:
    """∫_½¹ p^v₁ (1 − p)^v₂ dp / ∫₀¹ the same, by Simpson's rule."""

    def area(low: float, high: float) -> float:
        points = [low + (high - low) * i / steps for i in range(steps + 1)]
        values = [p**first * (1 - p) ** second for p in points]
        weights = [1, *[4 if i % 2 else 2 for i in range(1, steps)], 1]
        return (high - low) / steps / 3 * math.fsum(w * v for w, v in zip(weights, values, strict=True))

    return area(0.5, 1) / area(0, 1)


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (1, 0), (4, 0), (5, 3), (9, 2), (3.7, 1.9), (2.5, 2.5), (8.25, 0), (7.9, 6.3)]
)
def test_equals_numeric_integration(first: float, second: float) -> None:
    assert lead_probability(first, second) == pytest.approx(integrated(first, second), abs=1e-6)


@given(st.integers(0, 200), st.integers(0, 200))
def test_whole_votes_are_a_binomial_sum(one: int, other: int) -> None:
    """P(Beta(a + 1, b + 1) > ½) = P(Binomial(a + b + 1, ½) ≤ a), in exact fractions."""
    first, second = max(one, other), min(one, other)
    n = first + second + 1
    exact = Fraction(sum(math.comb(n, k) for k in range(first + 1)), 2**n)
    assert lead_probability(first, second) == pytest.approx(float(exact), abs=1e-12)


def test_after_each_sample() -> None:
    # The paper's threshold .95 takes four votes: 1 − 2^−(v + 1) is 0.9375 after three.
    assert lead_probabilities([0, 0, 0, 0]) == pytest.approx([0.75, 0.875, 0.9375, 0.96875])
    # A dissenter and an abstention delay. 6 against 1: P(Bin(8, ½) ≤ 6) = 1 − 9/256; 5 against 1: 1 − 8/128 = 0.9375.
    found = lead_probabilities([0, 1, -1, 0, 0, 0, 0, 0])
    assert found == pytest.approx([0.75, 0.5, 0.5, 0.6875, 0.8125, 0.890625, 0.9375, 1 - 9 / 256])
    assert lead_probabilities([-1, -1]) == [0.5, 0.5]
    assert lead_probabilities([2, 0, 2, 1, 2])[-1] == pytest.approx(lead_probability(3, 1))  # the second of many


def test_weights_are_parts_of_votes() -> None:
    assert lead_probabilities([0, 1, 0], [0.5, 0.25, 1.0]) == pytest.approx(
        [lead_probability(0.5, 0), lead_probability(0.5, 0.25), lead_probability(1.5, 0.25)]
    )
    assert lead_probabilities([0, 1, 0], [1.0, 1.0, 1.0]) == lead_probabilities([0, 1, 0])


@given(st.floats(0, 60), st.floats(0, 60))
def test_more_votes_for_the_leader_are_safer(one: float, other: float) -> None:
    first, second = max(one, other), min(one, other)
    assert 0.5 - 1e-12 <= lead_probability(first, second) <= lead_probability(first + 1, second) <= 1


def test_nonsense_is_refused() -> None:
    for first, second in ((1, 2), (1, -1), (math.nan, 0)):
        with pytest.raises(ValueError, match="votes of the leader"):
            lead_probability(first, second)
