"""M_rank's losses over pairs of a right and a wrong rationale of one question (docs/method.md, stage 3).

Each takes the logits [P] of right rationales, those [P] of wrong ones, and what the sum over pairs is divided by (see
`Denominators`; None: P).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def pairwise(
    positive: Tensor, negative: Tensor, pairs: float | None = None, exponents: tuple[float, float] = (3, 3)
) -> Tensor:
    """(1 − σ(l_pos))^a + σ(l_neg)^b, mean over pairs; (a, b) = `exponents`."""
    loss = (1 - positive.sigmoid()) ** exponents[0] + negative.sigmoid() ** exponents[1]  # [P]
    return loss.sum() / (pairs or max(1, len(loss)))


def binary_cross_entropy(positive: Tensor, negative: Tensor, pairs: float | None = None) -> Tensor:
    """Binary cross-entropy with right rationales → 1 and wrong ones → 0, mean over all 2P."""
    loss = -F.logsigmoid(positive) - F.logsigmoid(-negative)  # [P]
    return loss.sum() / (2 * (pairs or max(1, len(loss))))


RANKING_LOSSES: dict[str, Callable[..., Tensor]] = {"pairwise": pairwise, "binary_cross_entropy": binary_cross_entropy}
"""By the names that `RankModel(loss=...)` takes."""
