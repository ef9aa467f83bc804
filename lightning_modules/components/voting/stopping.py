"""When to stop sampling a question: Adaptive-Consistency (Aggarwal et al. 2023, arXiv 2305.11860).

The leading answer with v₁ votes and the runner-up with v₂ are taken for a coin with a uniform prior. Its posterior is
Beta(v₁ + 1, v₂ + 1), and the leader is the more probable answer of the two with probability

    P = ∫_½¹ p^v₁ (1 − p)^v₂ dp / ∫₀¹ p^v₁ (1 − p)^v₂ dp = 1 − I_½(v₁ + 1, v₂ + 1)

with I the regularised incomplete beta function. Sampling stops once P reaches a threshold (paper: .95, which takes four
votes without a dissenter). A sample without an answer costs, but casts no vote.

The authors count votes. With weights, as ASC has them, v is a sum of weights: a score below 1 is a part of a vote, so
that doubtful samples make the rule wait longer. That is our extension, not the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def lead_probability(first: float, second: float) -> float:
    """The probability 1 − I_½(v₁ + 1, v₂ + 1) in [0.5, 1) that the leader is the more probable answer of the two.

    Votes need not be whole; a ValueError unless first ≥ second ≥ 0.
    """
    if not first >= second >= 0:
        raise ValueError(f"{first} votes of the leader, {second} of the runner-up")
    a, b = first + 1, second + 1
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return 1 - math.exp(-(a + b) * math.log(2) - log_beta) / a * _continued_fraction(a, b)


def _continued_fraction(a: float, b: float) -> float:
    """I_½(a, b)·a·B(a, b)·2^(a + b) for a ≥ b ≥ 1, where it converges fast (DLMF 8.17.22 by Lentz's method)."""
    x = 0.5
    c = 1.0
    d = value = 1 / (1 - (a + b) * x / (a + 1))
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def lead_probabilities(classes: Sequence[int], weights: Sequence[float] | None = None) -> list[float]:
    """`lead_probability` after each sample of a question; 0.5 as long as nothing is known.

    Args:
        classes: Class of each sample's answer in the order of sampling, −1 where it states none.
        weights: Weight of each sample, at least 0; default: one vote each.
    """
    totals: dict[int, float] = {}
    found = []
    for index, number in enumerate(classes):
        if number >= 0:
            totals[number] = totals.get(number, 0.0) + (1.0 if weights is None else weights[index])
        first, second = [*sorted(totals.values(), reverse=True), 0.0, 0.0][:2]
        found.append(lead_probability(first, second))
    return found
