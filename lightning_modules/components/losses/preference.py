"""Losses that compare with a frozen reference: DPO over pairs of a question, KTO over single rationales."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.components.losses.targets import IGNORE, Targets, prompt_lengths, sample_sums, verdicts


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


def kahneman_tversky(
    logprobs: Tensor,
    reference: Tensor,
    divergence: Tensor,
    targets: Targets,
    beta: float = 0.1,
    weights: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """KTO: L = E[λ_D σ(β (z₀ − r)) if right, λ_U σ(β (r − z₀)) if wrong], r = log P(y)/P_ref(y).

    That is λ − v with the value v of Ethayarajh et al. 2024 (eq. 8): λ_D σ(β (r − z₀)) of a right sample.
    Direction: moves right rationales above the reference point z₀, wrong ones below it. Mask: targets only. Reduction:
    r sums over a sample's target tokens (EOS included), E is the mean over all samples of the optimizer step.

    Args:
        logprobs: The policy's log P of the targets, [N].
        reference: The frozen reference's, [N]; no gradient is sent into it.
        divergence: z₀, an estimate of KL(policy ‖ reference) ≥ 0 (`reference_point`), a scalar without gradient.
        targets: Of the batch, with verdicts.
        beta: β, the curvature of the value (Ethayarajh et al.: 0.1).
        weights: λ_D of right and λ_U of wrong samples.
    """
    above = beta * (sample_sums(logprobs - reference.detach(), targets) - divergence.detach())  # [S]
    right = verdicts(targets)  # [S]
    losses = torch.where(right, weights[0] * torch.sigmoid(-above), weights[1] * torch.sigmoid(above))  # [S]
    return losses.sum() / targets.all.samples


def mismatched(batch: dict[str, Any]) -> dict[str, Tensor]:
    """A batch in which each prompt is followed by the next row's rationale, cut at the batch's width."""
    ids, starts = batch["input_ids"], prompt_lengths(batch)  # [B, T], [B]
    place, after = torch.arange(ids.shape[1], device=ids.device)[None], starts.roll(-1)  # [1, T], [B]
    ends = starts + batch["attention_mask"].sum(1).roll(-1) - after  # [B]
    is_target = (place >= starts[:, None]) & (place < ends[:, None])  # [B, T]
    moved = (place + (after - starts)[:, None]).clamp(0, ids.shape[1] - 1)  # [B, T], where it stands in the next row
    given = torch.where(is_target, ids.roll(-1, 0).gather(1, moved), ids)  # [B, T]
    return {
        "input_ids": given,
        "attention_mask": (place < ends[:, None]).to(ids.dtype),
        "labels": given.where(is_target, IGNORE),
    }


def reference_point(logprobs: Tensor, reference: Tensor, targets: Targets) -> Tensor:
    """KTO's z₀ = max(0, mean of log P(y′)/P_ref(y′)) over `mismatched` rows, from both log P [N]: a scalar.

    A row alone has no other rationale to be mismatched with: z₀ = 0.
    """
    ratios = sample_sums(logprobs - reference, targets)  # [S]
    return ratios.mean().clamp_min(0) * (targets.samples > 1)


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
