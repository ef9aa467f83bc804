import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dust2gold.report.analyses.accuracy import tabulate, wilson_interval
from dust2gold.report.analyses.predictions import Prediction


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # Newcombe 1998, table I: Wilson's interval without continuity correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # By hand: n = 1, z² = 3.8415, (1 + 1.92073) / 4.84146 ± 1.96·√(0.960365) / 4.84146.
        (1, 1, 0.2065, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_against_published_values(correct: float, n: int, low: float, high: float) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5.1e-5)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_ends_solve_the_score_equation(n: int, share: float) -> None:
    """Each end p solves (share − p)² = z²·p(1 − p)/n, which defines the interval."""
    for end, side in zip(wilson_interval(share * n, n), (1, -1), strict=True):
        assert 0 <= end <= 1
        expected = 1.959963984540054 * math.sqrt(max(end * (1 - end), 0) / n)
        assert side * (share - end) == pytest.approx(expected, abs=1e-7)


def test_counts_by_subject_and_overall_with_fractional_ties() -> None:
    thirds = [Prediction("sc", "d", str(i), "A", 1 / 3) for i in range(3)]
    rows = tabulate([*thirds, Prediction("sc", "d", "9", "B", 0.5), Prediction("sc", "d", "10", "", 0)])
    assert [(row.subject, row.n, row.correct) for row in rows] == [("A", 3, 1.0), ("B", 1, 0.5), ("all", 5, 1.5)]
    assert rows[2].accuracy == pytest.approx(0.3)
    assert (rows[2].ci_low, rows[2].ci_high) == wilson_interval(1.5, 5)
