"""M_rank's losses over pairs of a right and a wrong rationale of one question (docs/method.md, stage 3)."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


def ranking_loss(positive: Tensor, negative: Tensor, pairs: float | None = None) -> Tensor:
    """(1 − s_pos)³ + s_neg⁷, mean over pairs (docs/method.md, stage 3).

    Args:
        positive: M_rank's scores in (0, 1) of right rationales, [P].
        negative: Its scores of wrong rationales of the same questions, [P].
        pairs: What the sum over pairs is divided by, see `Denominators`; default: P.
    """
    return ((1 - positive) ** 3 + negative**7).sum() / (pairs or max(1, len(positive)))


def pairwise(positive: Tensor, negative: Tensor, pairs: float | None = None) -> Tensor:
    """`ranking_loss` of logits [P] of right and [P] of wrong rationales."""
    return ranking_loss(positive.sigmoid(), negative.sigmoid(), pairs)


def ranking_cross_entropy(positive_logits: Tensor, negative_logits: Tensor, pairs: float | None = None) -> Tensor:
    """Binary cross-entropy with right rationales → 1 and wrong ones → 0, mean over all.

    Args:
        positive_logits: Of right rationales, [P].
        negative_logits: Of wrong ones, [P].
        pairs: As in `ranking_loss`.
    """
    loss = -F.logsigmoid(positive_logits) - F.logsigmoid(-negative_logits)  # [P]
    return loss.sum() / (2 * (pairs or max(1, len(loss))))


class RankingLoss(Protocol):
    """A loss over pairs."""

    def __call__(self, positive: Tensor, negative: Tensor, pairs: float | None = None, /) -> Tensor:
        """From logits of right [P] and wrong [P] rationales; the sum is divided by `pairs`, default P."""


RANKING_LOSSES: dict[str, RankingLoss] = {"pairwise": pairwise, "binary_cross_entropy": ranking_cross_entropy}
"""By name."""
