"""Direct preference optimisation over pairs of a right and a wrong rationale of the same question."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.components.losses.targets import Targets, sample_sums, verdicts


class PreferenceLoss(NamedTuple):
    """DPO's loss (a scalar) and its margins [P], one a pair, without gradient."""

    loss: Tensor
    margins: Tensor


def direct_preference(
    logprobs: Tensor, reference: Tensor, targets: Targets, groups: Tensor, beta: float = 0.1
) -> PreferenceLoss:
    """DPO: L = −E_pairs log σ(m), m = β (log P(y⁺)/P_ref(y⁺) − log P(y⁻)/P_ref(y⁻)) (Rafailov et al. 2023, eq. 7).

    Direction: widens the margin between a right and a wrong rationale of the same question, away from the reference.
    Mask: targets only. Reduction: log P(y) is the sum over a sample's target tokens (EOS included), E the mean over the
    pairs of the optimizer step. Where policy and reference agree L = log 2.

    Args:
        logprobs: The policy's log P of the targets, [N].
        reference: The frozen reference's, [N]; no gradient is sent into it.
        targets: Of the batch, with verdicts.
        groups: Number of each sample's question, [S].
        beta: β, the strength of the pull towards the reference (Rafailov et al.: 0.1).
    """
    ratios = sample_sums(logprobs - reference.detach(), targets)  # [S]
    right, wrong = pairs_of(groups, verdicts(targets))  # [P] each
    margins = beta * (ratios[right] - ratios[wrong])  # [P]
    return PreferenceLoss(-F.logsigmoid(margins).sum() / targets.positives.samples, margins.detach())


def pairs_of(groups: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Matches the right with the wrong samples of each question, in their order.

    Takes the number of each sample's question and its verdict, [S] each; returns the numbers of the right and of the
    wrong sample of each pair, [P] each. A ValueError if a question has not as many right as wrong samples.
    """
    sides = []
    for side in (right, ~right):
        samples = side.nonzero()[:, 0]  # [S⁺] or [S⁻]
        sides.append(samples[groups[samples].argsort(stable=True)])
    if sides[0].shape != sides[1].shape or (groups[sides[0]] != groups[sides[1]]).any():
        raise ValueError("every question of the batch needs as many right as wrong rationales")
    return sides[0], sides[1]
