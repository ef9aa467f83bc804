"""The losses of all stages as plain functions over target positions.

Every decoder loss works on the positions that carry a target, selected once by `select_targets`: N rows out of [B, T].
Padding and (by default) the prompt never enter. All reductions are in float32 or wider.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""Label of a position without a target (padding, prompt), as in Hugging Face."""


class Targets(NamedTuple):
    """Where the targets of a batch stand.

    Attributes:
        where: [B, T−1] bool, True where position t predicts a target at t + 1.
        tokens: [N] int64, the target tokens.
        sample: [N] int64, the batch row of each target.
        batch: B.
    """

    where: Tensor
    tokens: Tensor
    sample: Tensor
    batch: int


def find_targets(labels: Tensor) -> Targets:
    """Finds the targets of `labels` [B, T] (unshifted; IGNORE where there is none)."""
    shifted = labels[:, 1:]
    where = shifted != IGNORE
    return Targets(where, shifted[where], where.nonzero()[:, 0], labels.shape[0])


def at_targets(logits: Tensor, targets: Targets) -> Tensor:
    """Selects from `logits` [B, T, V] the rows that predict a target: [N, V] in float32 or wider."""
    rows = logits[:, :-1][targets.where]
    return rows if rows.dtype == torch.float64 else rows.float()


def sample_means(values: Tensor, targets: Targets) -> Tensor:
    """Mean of `values` [N] over the targets of each sample: [B]; 0 for a sample without targets."""
    total = values.new_zeros(targets.batch).index_add(0, targets.sample, values)
    count = values.new_zeros(targets.batch).index_add(0, targets.sample, torch.ones_like(values))
    return total / count.clamp_min(1)


def cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    """−log P(target), natural log, mean over all N targets of the batch (MLE).

    Args:
        logits: [N, V] at the targets.
        targets: As found by `find_targets`.

    Returns:
        A scalar; 0 (with a gradient of 0) when the batch holds no target.
    """
    return F.cross_entropy(logits, targets.tokens, reduction="sum") / max(1, targets.tokens.numel())


def kl_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(P ‖ Q) = Σ_v P(v) (log P(v) − log Q(v)) per row, in nats; [N, V], [N, V] → [N], no reduction over N."""
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def calibration(negative_logits: Tensor, nat_logits: Tensor, targets: Targets) -> Tensor:
    """β of NCE: tanh of the mean over each sample's targets of KL(P_neg ‖ P_NAT); [B] in [0, 1).

    Args:
        negative_logits: M_neg's logits [N, V] at the targets.
        nat_logits: M_NAT's logits [N, V] there.
        targets: Of the batch.
    """
    divergence = kl_divergence(negative_logits, nat_logits).clamp_min(0)  # rounding can leave −1e-8
    return torch.tanh(sample_means(divergence, targets))


def distillation(teacher_logits: Tensor, student_logits: Tensor, targets: Targets, temperature: float = 1.0) -> Tensor:
    """KD = −mean_t Σ_v P_teacher(v) log P_student(v) · T² per sample: [B], mean over the sample's targets.

    Cross-entropy against the teacher's distribution (forward KL up to the teacher's entropy, a constant).

    Args:
        teacher_logits: [N, V]; no gradient is sent into it.
        student_logits: [N, V].
        targets: Of the batch.
        temperature: T, dividing both logits.
    """
    probabilities = (teacher_logits.detach() / temperature).softmax(-1)
    log_student = (student_logits / temperature).log_softmax(-1)
    return sample_means(-(probabilities * log_student).sum(-1) * temperature**2, targets)


class CalibratedLoss(NamedTuple):
    """NCE's loss and its parts; scalars but β."""

    loss: Tensor
    cross_entropy: Tensor
    distillation: Tensor
    beta: Tensor


def negative_calibrated(
    student_logits: Tensor,
    nat_logits: Tensor,
    negative_logits: Tensor,
    targets: Targets,
    mix: float = 0.5,
    temperature: float = 1.0,
) -> CalibratedLoss:
    """L = (1 − a)·CE + a·mean_b[(0.5 + β_b)·KD_b] (PAPER.md, stage 2).

    CE is the mean over all targets of the batch, KD_b the mean over sample b's targets, the weighted KD the mean over
    samples.

    Args:
        student_logits: The learner's logits [N, V] at the targets.
        nat_logits: The teacher M_NAT's.
        negative_logits: The calibrator M_neg's.
        targets: Of the batch.
        mix: a; 0 is plain MLE.
        temperature: T of the distillation.

    Returns:
        The loss, its unweighted parts (CE; mean over samples of KD) and β [B].
    """
    beta = calibration(negative_logits, nat_logits, targets).detach()
    return weighted_distillation(student_logits, nat_logits, targets, beta, mix, temperature)


def weighted_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Targets,
    beta: Tensor,
    mix: float = 0.5,
    temperature: float = 1.0,
) -> CalibratedLoss:
    """`negative_calibrated` with β [B] given: constant 0.5 makes it plain self-refinement (weight 1)."""
    ce = cross_entropy(student_logits, targets)
    kd = distillation(teacher_logits, student_logits, targets, temperature)
    loss = (1 - mix) * ce + mix * ((0.5 + beta) * kd).mean()
    return CalibratedLoss(loss, ce, kd.mean(), beta)


def ranking_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """(1 − s_pos)³ + s_neg⁷, mean over pairs (PAPER.md, stage 3).

    Args:
        positive: M_rank's scores in (0, 1) of right rationales, [P].
        negative: Its scores of wrong rationales of the same questions, [P].
    """
    return ((1 - positive) ** 3 + negative**7).mean()


def ranking_cross_entropy(positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """Binary cross-entropy with right rationales → 1 and wrong ones → 0, mean over all; takes logits [P], [P]."""
    loss = F.binary_cross_entropy_with_logits
    return (loss(positive_logits, torch.ones_like(positive_logits))
            + loss(negative_logits, torch.zeros_like(negative_logits))) / 2  # fmt: skip
