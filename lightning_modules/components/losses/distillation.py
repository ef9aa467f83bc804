"""NCE's loss: distillation weighed by how far the negative model is from the teacher (docs/method.md, stage 2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.components.losses.supervised import cross_entropy
from lightning_modules.components.losses.targets import Targets, sample_means


def calibration(divergence: Tensor, targets: Targets) -> Tensor:
    """β of NCE: tanh of the mean over each sample's targets of KL(P_neg ‖ P_NAT) ≥ 0 [N], in nats; [S] in [0, 1)."""
    return torch.tanh(sample_means(divergence, targets))  # [S]


class CalibratedLoss(NamedTuple):
    """NCE's loss and its unweighted parts: CE, mean over tokens, and KD, mean over samples. Scalars."""

    loss: Tensor
    cross_entropy: Tensor
    distillation: Tensor


def negative_calibrated(
    logprobs: Tensor, distillation: Tensor, beta: Tensor, targets: Targets, mix: float = 0.5
) -> CalibratedLoss:
    """L = (1 − a)·CE + a·mean_b mean_t[(0.5 + β)·KD_t] (docs/method.md, stage 2).

    CE is the mean over all target tokens, KD the mean over each sample's targets and then over samples.

    Args:
        logprobs: The learner's log P(target) [N].
        distillation: KD_t = −T² Σ_v P_NAT(v) log P_NCE(v) [N], both at temperature T.
        beta: β of each target's sample (the paper) or of the target itself, [N]; 0.5 everywhere makes the weight 1:
            plain self-refinement.
        targets: Of the batch.
        mix: a; 0 is plain MLE.
    """

    def over_samples(values: Tensor) -> Tensor:
        return sample_means(values, targets).sum() / targets.all.samples

    ce = cross_entropy(logprobs, targets)
    weighted = over_samples((0.5 + beta) * distillation)  # of [N]
    return CalibratedLoss((1 - mix) * ce + mix * weighted, ce, over_samples(distillation.detach()))
