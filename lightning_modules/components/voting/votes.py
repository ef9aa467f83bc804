"""Votes over (answer, weight) pairs whose answers are pooled by value: SC, WS and ASC (docs/method.md, stage 3).

An answer is its class within the question, −1 where a sample states none. A tie counts fractionally, never by order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TIE_TOLERANCE = 1e-9
"""Totals tie when they differ by at most this share of the larger: far above the rounding of a float64 sum of thousands
of weights (about 1e-13), far below the smallest difference that means anything."""

NEEDS: dict[str, str | None] = {
    "sc": None,
    "ws": "logprob_mean",
    "asc": "score",
    "asc-1+s": "score",
    "asc-1+2s": "score",
}
"""Each method of voting, and which field of a sample it weighs by."""

PLACEBO = "asc-permuted"
"""`asc` with each sample weighted by the score of another one of its question: votes without M_rank's word."""

_ASC_WEIGHTS = {"asc": (0.0, 1.0), "asc-1+s": (1.0, 1.0), "asc-1+2s": (1.0, 2.0)}
"""Offset and slope that make a weight of M_rank's score; the first is the paper's, the reference tries all three."""


def vote_weights(answers: Tensor, logprob_mean: Tensor | None = None, score: Tensor | None = None) -> dict[str, Tensor]:
    """The weights [Q, N] float64 of every method that the given fields allow, in the order of `NEEDS`.

    Args:
        answers: [Q, N] int64 classes, for `sc` (Wang et al. 2023): every sample weighs 1.
        logprob_mean: [Q, N] log P / tokens, for `ws`: the model's own length-normalised probability.
        score: [Q, N] M_rank's score in (0, 1), for `asc`, `asc-1+s` and `asc-1+2s`.
    """
    weights = {"sc": torch.ones_like(answers, dtype=torch.float64)}
    if logprob_mean is not None:
        weights["ws"] = logprob_mean.double().exp()
    if score is not None:
        weights |= {method: offset + slope * score.double() for method, (offset, slope) in _ASC_WEIGHTS.items()}
    return weights


def permute_scores(score: Tensor, samples: Tensor) -> Tensor:
    """Gives each sample the score of the next one, the last that of the first; samples are drawn in no order.

    Takes scores [Q, N], padded after each question's samples [Q] in number.
    """
    following = (torch.arange(score.shape[1]) + 1) % samples.clamp(min=1)[:, None]  # [Q, N]
    return score.gather(1, following.to(score.device))  # [Q, N]


def vote(classes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """The winning classes of one question's vote, ascending: one, several in a tie, none if all abstain (−1)."""
    answers = torch.tensor([list(classes)], dtype=torch.int64)  # [1, N]
    votes = torch.tensor([list(weights)], dtype=torch.float64)  # [1, N]
    return winning_classes(answers, votes)[0].nonzero()[:, 0].tolist()


def winning_classes(answers: Tensor, weights: Tensor) -> Tensor:
    """The winners of Q questions' votes.

    Args:
        answers: [Q, N] int64 classes, −1 for abstentions and padding.
        weights: [Q, N], finite and at least 0 wherever there is an answer; anything elsewhere.

    Returns:
        [Q, C] bool, C one more than the largest class: true at the winning classes of each question; a row without
        answers has none.

    Raises:
        ValueError: If a weight of an answer is negative, infinite or NaN.
    """
    answered = answers >= 0  # [Q, N]
    counted = weights.double().masked_fill(~answered, 0.0)  # [Q, N]
    if not bool((counted.isfinite() & (counted >= 0)).all()):
        raise ValueError("the weights of votes must be finite and not negative")
    classes = answers.clamp(min=0)  # [Q, N]
    zeros = counted.new_zeros(len(answers), int(classes.max()) + 1 if classes.numel() else 1)  # [Q, C]
    totals = zeros.scatter_add(1, classes, counted)  # [Q, C]
    # A class that only samples of weight 0 chose can win, a class that none chose cannot.
    chosen = zeros.scatter_add(1, classes, answered.double()) > 0  # [Q, C]
    best = totals.amax(1, keepdim=True)  # [Q, 1]
    return chosen & (totals >= best * (1 - TIE_TOLERANCE))


def vote_accuracy(answers: Tensor, weights: Tensor, gold: Tensor) -> Tensor:
    """[Q] float64: 1 / (number of tied winners) where the gold answer is among them, otherwise 0.

    Takes answers and weights [Q, N] as `winning_classes`, and the gold answers' classes [Q], negative if no sample has
    it.
    """
    winners = winning_classes(answers, weights)  # [Q, C]
    last = winners.shape[1] - 1
    right = winners.gather(1, gold.clamp(0, last)[:, None])[:, 0] & (gold >= 0) & (gold <= last)  # [Q]
    return right.double() / winners.sum(1).clamp(min=1)  # [Q]
