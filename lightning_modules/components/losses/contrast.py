"""CL's contrast: a question's pooled hidden state near its right rationales' and far from its wrong ones'."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.components.losses.targets import Targets, verdicts


def pooled(hidden: Tensor, where: Tensor) -> Tensor:
    """Mean [B, d] of `hidden` [B, T, d] over the marked positions `where` [B, T] of each row; 0 if none is.

    Float32 or wider.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)  # no matrix product, which autocast would round
    total = hidden.masked_fill(~where[..., None], 0).sum(1, dtype=wide)  # [B, d]
    return total / where.sum(1, keepdim=True).clamp_min(1)


def info_nce(
    questions: Tensor, rationales: Tensor, targets: Targets, groups: Tensor, temperature: float = 0.1
) -> Tensor:
    """InfoNCE of right rationales against the wrong ones of the same question (van den Oord et al. 2018, eq. 4).

    L = −E_pos log[ e^{s_i/τ} / (e^{s_i/τ} + Σ_j e^{s_j/τ}) ], s = cos(question, rationale), j over the wrong rationales
    of i's question. Direction: raises s of right, lowers s of wrong rationales, down to 0 at the best. Reduction: mean
    over the right samples of the optimizer step; a question without wrong rationales adds 0, as the formula gives.

    Args:
        questions: Pooled state of each sample's own question, [S, d]; a causal decoder gives the samples of a question
            the same (but for dropout).
        rationales: Pooled state of each sample's rationale, [S, d].
        targets: Of the batch, with verdicts.
        groups: Number of each sample's question, [S].
        temperature: τ.
    """
    right = verdicts(targets)  # [S]
    scores = F.cosine_similarity(questions, rationales, dim=-1) / temperature  # [S]
    own = scores[right]  # [S⁺]
    foreign = groups[right][:, None] != groups[~right][None, :]  # [S⁺, S⁻]
    others = scores[~right].expand(len(own), -1).masked_fill(foreign, -torch.inf)  # [S⁺, S⁻]
    losses = torch.logsumexp(torch.cat([own[:, None], others], 1), 1) - own  # [S⁺]
    return losses.sum() / targets.positives.samples
