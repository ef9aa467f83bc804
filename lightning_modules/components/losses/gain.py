"""GLOW: cross-entropy whose samples are weighted by how much their loss fell since the epoch before."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.components.losses.targets import Targets, sample_means

LEAST, MOST = 0.5, 5.0
"""What the authors' code cuts weights at."""


class GainWeighted(NamedTuple):
    """GLOW's loss (a scalar), and each sample's loss and weight [S], without gradient."""

    loss: Tensor
    losses: Tensor
    weights: Tensor


def gain_weighted(
    logprobs: Tensor, before: Tensor, targets: Targets, alpha: float = 1.0, beta: float = 20.0
) -> GainWeighted:
    """GLOW: L = E[w ℓ], w = α (1 − σ(β (ℓ_before − ℓ))) in [0.5, 5] (Tian et al. 2026, arXiv 2601.04992).

    Direction: raises the likelihood of all samples, right and wrong, the more the less their loss falls. Mask: targets
    only. Reduction: ℓ is the mean of −log P over a sample's targets (EOS included), E over the samples of the optimizer
    step. w has no gradient.

    Args:
        logprobs: log P of the targets, [N].
        before: ℓ of each sample when it was last seen, an epoch ago, [S]; NaN: never, w = 1.
        targets: Of the batch.
        alpha: α, twice the weight of a sample whose loss stays as it is.
        beta: β, how fast the weight falls with the gain.
    """
    losses = -sample_means(logprobs, targets)  # [S]
    current = losses.detach()
    weights = (alpha * torch.sigmoid(-beta * (before - current))).clamp(LEAST, MOST)  # [S]
    weights = weights.where(~before.isnan(), 1.0)
    return GainWeighted((weights * losses).sum() / targets.all.samples, current, weights)
