"""Accuracy of voting over the number of samples, and what the samples cost.

Accuracy at n is the expectation over which n of a question's N samples are drawn, estimated by the mean over random
orders: each order gives the first 1, 2, …, N. All methods vote on the same orders. The cost is the expected number of
generated tokens, n times a question's mean; what M_rank reads to score the samples is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dust2gold.core.text import escape
from dust2gold.report.analyses.votes import Votes
from dust2gold.report.figures import over_n_figure
from dust2gold.report.section import Section, percent
from lightning_modules.components.voting.votes import vote_accuracy

METHODS = ("sc", "ws", "asc")
ORDERS = 50
"""How many random orders are averaged over."""


@dataclass(frozen=True)
class Point:
    """The accuracy of each method with n samples per question (or all it has), and their tokens; None if unknown."""

    n: int
    tokens: float | None
    accuracy: dict[str, float]


def accuracy_over_n(votes: Votes, orders: int = ORDERS, seed: int = 0) -> list[Point]:
    """The expected accuracy for n = 1 … N samples: the mean over `orders` random orders drawn with `seed`."""
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
    tokens: list[float | None] = [None] * width
    if votes.tokens is not None:
        counts = votes.present.sum(1)  # [Q]
        per_sample = votes.tokens.sum(1).double() / counts.clamp(min=1)
        tokens = [float((per_sample * counts.clamp(max=n)).mean()) for n in range(1, width + 1)]
    return [Point(n + 1, tokens[n], {method: values[n] for method, values in means.items()}) for n in range(width)]


def accuracy_at(points: Sequence[Point], method: str, samples: float) -> float:
    """A method's accuracy with a mean number of samples (clamped to 1 … N), interpolated between whole numbers.

    That is the expected accuracy if some questions, chosen at random, get one sample more than the others.
    """
    below = min(max(math.floor(samples), 1), len(points))
    above = min(below + 1, len(points))
    low, high = points[below - 1].accuracy[method], points[above - 1].accuracy[method]
    return low + (high - low) * min(max(samples - below, 0.0), 1.0)


def add_over_n(section: Section, dataset: str, points: Sequence[Point]) -> None:
    """Adds the table and the figure."""
    methods = list(points[0].accuracy)
    body = []
    for point in points:
        tokens = [] if point.tokens is None else [f"{point.tokens:.0f}"]
        body.append([str(point.n), *tokens, *(percent(point.accuracy[method]) for method in methods)])
    cost = ["tokens per question"] if points[0].tokens is not None else []
    section.add(f"## {escape(dataset)}: accuracy over the number of samples")
    section.add_table(
        ["n", *cost, *(f"{method} %" for method in methods)],
        body,
        f"expected accuracy with n samples per question: the mean over {ORDERS} random orders of the samples (seed 0), "
        "the same for all methods. Tokens are those that the student writes; for ASC, M_rank reads them once more.",
        texts=0,
    )
    section.add_numbers("accuracy over n", points, dataset=dataset)
    figure = over_n_figure(dataset, {method: [point.accuracy[method] for point in points] for method in methods})
    section.add_figure("over-n", dataset, figure, f"Accuracy over the number of samples on {dataset}")
