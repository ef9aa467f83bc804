"""Accuracy of voting over the number of samples, and what the samples cost.

Accuracy at n is the expectation over which n of a question's N samples are drawn, estimated by the mean over random
orders of them: each order gives the first 1, 2, …, N. All methods vote on the same orders, so their difference is not
the draw's. At n = N nothing is random. The cost is the expected number of tokens that n samples of a question take, n
times its mean; what M_rank reads to score them is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dust2gold.report.analyses.votes import Votes
from lightning_modules.components.voting.votes import vote_accuracy

METHODS = ("sc", "ws", "asc")
ORDERS = 50
"""How many random orders are averaged over."""


@dataclass(frozen=True)
class Point:
    """One number of samples.

    Attributes:
        n: Samples per question; a question that has fewer votes with all it has.
        tokens: Generated tokens per question, None where they are unknown.
        accuracy: Of each method, in [0, 1].
    """

    n: int
    tokens: float | None
    accuracy: dict[str, float]


def accuracy_over_n(votes: Votes, orders: int = ORDERS, seed: int = 0) -> list[Point]:
    """The expected accuracy for n = 1 … N samples.

    Args:
        votes: The samples.
        orders: How many random orders to average over.
        seed: Of the orders; the same seed gives the same figures.
    """
    weights = {method: votes.weights[method] for method in METHODS if method in votes.weights}
    width = votes.answers.shape[1]
    totals = {method: torch.zeros(width, dtype=torch.float64) for method in weights}
    generator = torch.Generator().manual_seed(seed)
    for _ in range(orders):
        keys = torch.rand(votes.answers.shape, generator=generator, dtype=torch.float64)
        order = (keys + (~votes.present).double()).argsort(1)  # padding stays behind
        answers = votes.answers.gather(1, order)
        for method, weight in weights.items():
            shuffled = weight.gather(1, order)
            for n in range(1, width + 1):
                totals[method][n - 1] += vote_accuracy(answers[:, :n], shuffled[:, :n], votes.gold).mean()
    means = {method: (total / orders).tolist() for method, total in totals.items()}
    return [Point(n, _tokens(votes, n), {m: means[m][n - 1] for m in means}) for n in range(1, width + 1)]


def _tokens(votes: Votes, n: int) -> float | None:
    if votes.tokens is None:
        return None
    counts = votes.present.sum(1)
    means = votes.tokens.sum(1).double() / counts.clamp(min=1)
    return float((means * counts.clamp(max=n)).mean())


def accuracy_at(points: Sequence[Point], method: str, samples: float) -> float:
    """A method's accuracy with a mean number of samples that need not be whole, straight between the points beside it.

    That is what a question costs and gains on average if some questions get one sample more than others, at random.

    Args:
        points: What `accuracy_over_n` gives, for n = 1 … N.
        method: One of its methods.
        samples: From 1 to N; what lies outside takes the end.
    """
    below = min(max(math.floor(samples), 1), len(points))
    above = min(below + 1, len(points))
    low, high = points[below - 1].accuracy[method], points[above - 1].accuracy[method]
    return low + (high - low) * min(max(samples - below, 0.0), 1.0)
