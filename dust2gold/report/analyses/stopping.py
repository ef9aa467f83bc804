"""Adaptive stopping: how many samples it saves and how much accuracy it keeps (Aggarwal et al. 2023, arXiv 2305.11860).

The saved samples are replayed in the order in which they were drawn; a question stops at the first sample after which
`voting.stopping.lead_probability` reaches the threshold, else it takes all it has, and votes with
what it took. For ASC the votes are M_rank's scores, an extension of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dust2gold.core.text import escape
from dust2gold.report.analyses.scaling import Point, accuracy_at
from dust2gold.report.analyses.votes import Votes
from dust2gold.report.section import NONE, Section, percent
from lightning_modules.components.voting.stopping import lead_probabilities
from lightning_modules.components.voting.votes import vote_accuracy

METHODS = ("sc", "asc")
THRESHOLDS = (0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Stopping:
    """A method of voting that stops a question at a probability of `threshold`.

    `samples` and `tokens` (None if unknown) are the means taken per question, `saved` is the share of all samples that
    was not taken, `full_accuracy` the accuracy with all samples.
    """

    method: str
    threshold: float
    samples: float
    saved: float
    tokens: float | None
    accuracy: float
    full_accuracy: float


def adaptive_stopping(votes: Votes, thresholds: Sequence[float] = THRESHOLDS) -> list[Stopping]:
    """Replays the samples for each method of `METHODS` that they allow, and each threshold."""
    found = []
    for method in METHODS:
        if method in votes.weights:
            rows = zip(votes.answers.tolist(), votes.weights[method].tolist(), strict=True)
            probabilities = torch.tensor([lead_probabilities(*row) for row in rows], dtype=torch.float64)  # [Q, N]
            found += [_stopped(votes, method, probabilities, threshold) for threshold in thresholds]
    return found


def _stopped(votes: Votes, method: str, probabilities: Tensor, threshold: float) -> Stopping:
    # A sample is taken if no earlier one made its question stop.
    stops = (probabilities >= threshold).long().cumsum(1)
    taken = votes.present & (torch.nn.functional.pad(stops, (1, 0))[:, :-1] == 0)
    weights = votes.weights[method]
    answers = votes.answers.masked_fill(~taken, -1)
    return Stopping(
        method=method,
        threshold=threshold,
        samples=float(taken.sum(1).double().mean()),
        saved=1 - float(taken.sum() / votes.present.sum()),
        tokens=None if votes.tokens is None else float((votes.tokens * taken).sum(1).double().mean()),
        accuracy=float(vote_accuracy(answers, weights, votes.gold).mean()),
        full_accuracy=float(vote_accuracy(votes.answers, weights, votes.gold).mean()),
    )


def add_stopping(section: Section, dataset: str, votes: Votes, points: Sequence[Point]) -> None:
    """Adds the table; `points` say what the same mean number of samples gives without stopping."""
    rows = adaptive_stopping(votes)
    fixed = [accuracy_at(points, row.method, row.samples) for row in rows]
    body = []
    for row, same_cost in zip(rows, fixed, strict=True):
        tokens = NONE if row.tokens is None else f"{row.tokens:.0f}"
        taken = [row.method, f"{row.threshold:.2f}", f"{row.samples:.2f}", f"{100 * row.saved:.1f}", tokens]
        body.append([*taken, percent(row.accuracy), percent(row.full_accuracy), percent(same_cost)])
    heading = ["method", "stops at", "samples", "saved %", "tokens", "accuracy %", "with all %", "fixed n %"]
    section.add(f"## {escape(dataset)}: adaptive stopping")
    section.add_table(
        heading,
        body,
        "a question stops once its leader beats the runner-up with probability `stops at` (Aggarwal et al. 2023; for "
        "asc scores are votes). `with all` is without stopping; `fixed n` takes for every question what is taken "
        "here on average.",
    )
    section.add_numbers("adaptive stopping", rows, dataset=dataset)
    for record, accuracy in zip(section.numbers["adaptive stopping"][-len(rows) :], fixed, strict=True):
        record["fixed_n_accuracy"] = accuracy
