"""The losses of all stages as plain functions of log-probabilities at the batch's targets.

A target is a token that something must predict; padding and (by default) the prompt hold none. `find_targets` finds the
N targets of a batch once, a model gives log P(target) [N] (`components/head.py`), and a loss sums up. What a sum is
divided by is not the micro-batch's own count where the batch knows better, see `Denominators`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""Label of a position without a target (padding, prompt), as in Hugging Face."""


class Denominators(NamedTuple):
    """What sums over a (micro-)batch are divided by, to be means over the whole optimizer step; never 0.

    Lightning averages the loss over accumulated micro-batches and DDP the gradients over ranks. With the step's counts
    divided by (micro-batches × ranks), the step's gradient is that of one big batch, however it was cut.

    Attributes:
        tokens: Number of target tokens.
        samples: Number of samples.
    """

    tokens: float
    samples: float


class Targets(NamedTuple):
    """Where the targets of a batch stand.

    Attributes:
        where: [B, T−1] bool, True where position t predicts a target at t + 1.
        tokens: [N] int64, the target tokens.
        sample: [N] int64, the number of each target's sample within the batch.
        samples: S, how many samples the batch holds: B, or more in packed rows.
        positive: [S] bool, each sample's verdict; None if the batch does not say.
        all: Denominators of sums over all samples; infinite if the batch only fills a rank's turn.
        positives: Of sums over the positive samples.
        negatives: Of sums over the others.
    """

    where: Tensor
    tokens: Tensor
    sample: Tensor
    samples: int
    positive: Tensor | None
    all: Denominators
    positives: Denominators
    negatives: Denominators


def find_targets(batch: dict[str, Any]) -> Targets:
    """Finds the targets of a batch.

    Reads `labels` [B, T] (unshifted; IGNORE where there is no target) and, where the batch has them, `segments` [B, T]
    (packed rows: the number of each token's sample, −1 at padding), `positive` [S], `ids`, and `step`: for "all",
    "positive" and "negative" the (tokens, samples) to divide by, see `Denominators`.
    """
    shifted, segments, positive = batch["labels"][:, 1:], batch.get("segments"), batch.get("positive")
    where = shifted != IGNORE
    if segments is None:
        sample, samples = where.nonzero()[:, 0], len(shifted)
    else:
        sample = segments[:, 1:][where]
        samples = len(batch["ids"]) if "ids" in batch else int(segments.max()) + 1
    counts = batch.get("step") or _own_counts(sample, samples, positive)
    denominators = (Denominators(*(float(n) or 1.0 for n in counts[k])) for k in ("all", "positive", "negative"))
    return Targets(where, shifted[where], sample, samples, positive, *denominators)


def _own_counts(sample: Tensor, samples: int, positive: Tensor | None) -> dict[str, tuple[int, int]]:
    tokens = len(sample)
    if positive is None:
        return {"all": (tokens, samples), "positive": (0, 0), "negative": (0, 0)}
    right = int(positive[sample].sum()), int(positive.sum())
    return {"all": (tokens, samples), "positive": right, "negative": (tokens - right[0], samples - right[1])}


def at_targets(values: Tensor, targets: Targets) -> Tensor:
    """Selects from `values` [B, T, ...], hidden states say, the positions that predict a target: [N, ...]."""
    return values[:, :-1][targets.where]


def sample_sums(values: Tensor, targets: Targets) -> Tensor:
    """Sum of `values` [N] over the targets of each sample: [S]; 0 for a sample without targets."""
    return values.new_zeros(targets.samples).index_add(0, targets.sample, values)


def sample_means(values: Tensor, targets: Targets) -> Tensor:
    """Mean of `values` [N] over the targets of each sample: [S]; 0 for a sample without targets."""
    return sample_sums(values, targets) / sample_sums(torch.ones_like(values), targets).clamp_min(1)


def cross_entropy(logprobs: Tensor, targets: Targets) -> Tensor:
    """−log P(target), mean over all target tokens of the step (MLE).

    Args:
        logprobs: log P(target) [N].
        targets: As found by `find_targets`.

    Returns:
        A scalar; 0 (with a gradient of 0) when the batch holds no target.
    """
    return -logprobs.sum() / targets.all.tokens


def calibration(divergence: Tensor, targets: Targets) -> Tensor:
    """β of NCE: tanh of the mean over each sample's targets of KL(P_neg ‖ P_NAT); [S] in [0, 1).

    Args:
        divergence: KL(P_neg ‖ P_NAT) ≥ 0 at each target, [N], in nats.
        targets: Of the batch.
    """
    return torch.tanh(sample_means(divergence, targets))


def token_calibration(divergence: Tensor) -> Tensor:
    """β_t = tanh KL_t, each target's own [N] in [0, 1); takes KL(P_neg ‖ P_NAT) ≥ 0 [N], in nats."""
    return torch.tanh(divergence)


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
    weighted = over_samples((0.5 + beta) * distillation)
    return CalibratedLoss((1 - mix) * ce + mix * weighted, ce, over_samples(distillation.detach()))


def ranking_loss(positive: Tensor, negative: Tensor, pairs: float | None = None) -> Tensor:
    """(1 − s_pos)³ + s_neg⁷, mean over pairs (docs/method.md, stage 3).

    Args:
        positive: M_rank's scores in (0, 1) of right rationales, [P].
        negative: Its scores of wrong rationales of the same questions, [P].
        pairs: What the sum over pairs is divided by, see `Denominators`; default: P.
    """
    return ((1 - positive) ** 3 + negative**7).sum() / (pairs or max(1, len(positive)))


def ranking_cross_entropy(positive_logits: Tensor, negative_logits: Tensor, pairs: float | None = None) -> Tensor:
    """Binary cross-entropy with right rationales → 1 and wrong ones → 0, mean over all.

    Args:
        positive_logits: Of right rationales, [P].
        negative_logits: Of wrong ones, [P].
        pairs: As in `ranking_loss`.
    """
    loss = -F.logsigmoid(positive_logits) - F.logsigmoid(-negative_logits)
    return loss.sum() / (2 * (pairs or max(1, len(loss))))


def only_fills_a_turn(batch: dict[str, Any]) -> bool:
    """Whether a batch repeats rows of another one so that ranks have equally many, and nothing of it counts."""
    return "step" in batch and math.isinf(batch["step"]["all"][1])
