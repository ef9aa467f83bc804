"""Losses that learn from right and wrong rationales at once: NT, UL and REDI (docs/method.md, baselines).

Each is minimised, takes log P of a batch's targets (natural log, [N]) and asks for the verdict of each sample. Prompt
and padding are no targets and never enter. E_pos and E_neg are means over the whole optimizer step, each over its own
verdict: over target tokens, as everywhere in MLE here, or over samples where a loss is a function of whole sequences. A
batch without one of the verdicts adds 0 to that mean.

An objective (`NegativeTraining`, `Unlikelihood`, `REDI`) is such a loss with its settings: what a config names.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.losses.supervised import positive_cross_entropy
from lightning_modules.components.losses.targets import Targets, on_right, sample_means, verdicts

Level = Literal["sequence", "token"]


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − e^x) for x ≤ 0, elementwise, without cancellation at either end (Mächler 2012).

    x is cut at −eps of its dtype: where P rounds to 1 the value is log eps (−15.9 in float32) and the gradient 0.
    """
    x = x.clamp_max(-torch.finfo(x.dtype).eps)
    near = x > -math.log(2)
    # `where` also guards each branch's input: an infinity in the branch not taken would make its gradient NaN.
    small = torch.log(-torch.expm1(torch.where(near, x, -1.0)))
    large = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, small, large)


def negative_training(logprobs: Tensor, targets: Targets, weight: float = 0.05) -> Tensor:
    """NT: L = −E_pos log P(r, ŷ | x) + λ₂ E_neg log P(r, ŷ | x).

    Direction: raises the likelihood of right rationales, lowers that of wrong ones. The second term has no lower bound:
    with a large λ₂ everything collapses. Reduction: both E are means over the target tokens of their verdict.

    Args:
        logprobs: log P of the targets, [N].
        targets: Of the batch, with verdicts.
        weight: λ₂ (paper: 0.05); 0 is MLE on D_pos.
    """
    penalty = logprobs[~on_right(targets)].sum() / targets.negatives.tokens
    return positive_cross_entropy(logprobs, targets) + weight * penalty


def unlikelihood(logprobs: Tensor, targets: Targets, weight: float = 0.05, level: Level = "sequence") -> Tensor:
    """UL: L = −E_pos log P(r, ŷ | x) − λ₃ E_neg log(1 − P(r, ŷ | x)).

    Direction: as NT, but bounded below by 0: a wrong rationale that is improbable already is left alone. Reduction:
    E_pos is the mean over the target tokens of right rationales, E_neg by `level`:

    - `sequence`: P is the wrong rationale's length-normalised probability exp(mean_t log p_t) (the product over its
      tokens underflows), E_neg the mean over wrong samples.
    - `token`: every wrong rationale's token is a negative candidate with P = p_t, E_neg the mean over wrong samples'
      target tokens (Welleck et al. 2020, eq. 4, with the sequence's own tokens as candidates).

    Args:
        logprobs: log P of the targets, [N].
        targets: Of the batch, with verdicts.
        weight: λ₃ (paper: 0.05); 0 is MLE on D_pos.
        level: `sequence` or `token`.
    """
    if level == "token":
        penalty = log1mexp(logprobs[~on_right(targets)]).sum() / targets.negatives.tokens
    else:
        counted = (
            torch.bincount(targets.sample, minlength=targets.samples) > 0
        )  # [S]; a sample without targets has no P
        wrong = sample_means(logprobs, targets)[~verdicts(targets) & counted]  # [S⁻]
        penalty = log1mexp(wrong).sum() / targets.negatives.samples
    return positive_cross_entropy(logprobs, targets) - weight * penalty


def reinforcement_distillation(logprobs: Tensor, targets: Targets, weight: float = 0.8) -> Tensor:
    """REDI: L = −E_pos[log P(y | x) / |y|] + α E_neg[log P(y | x) / |y|] (Xu et al. 2025, arXiv 2505.24850, stage 2).

    Direction: as NT, on a student that has learnt D_pos already. Reduction: mean over each sample's target tokens (EOS
    included), then over the samples of a verdict; over pairs of one right and one wrong rationale the two E together
    are the paper's mean over pairs.

    Args:
        logprobs: log P of the targets, [N].
        targets: Of the batch, with verdicts.
        weight: α (Xu et al.: 0.8); 0 is length-normalised MLE on D_pos.
    """
    normalised, right = sample_means(logprobs, targets), verdicts(targets)  # [S]
    likelihood = normalised[right].sum() / targets.positives.samples
    return -likelihood + weight * normalised[~right].sum() / targets.negatives.samples


class Objective(ABC):
    """A loss over right and wrong rationales with its settings, named in a config by its class."""

    @abstractmethod
    def __call__(self, logprobs: Tensor, targets: Targets) -> Tensor:
        """The scalar to minimise, from log P of the targets [N]."""


@dataclass(frozen=True)
class NegativeTraining(Objective):
    """NT: see `negative_training`.

    Attributes:
        weight: λ₂ (paper: 0.05).
    """

    weight: float = 0.05

    def __post_init__(self) -> None:
        _check(self.weight)

    def __call__(self, logprobs: Tensor, targets: Targets) -> Tensor:
        """See `negative_training`."""
        return negative_training(logprobs, targets, self.weight)


@dataclass(frozen=True)
class Unlikelihood(Objective):
    """UL: see `unlikelihood`.

    Attributes:
        weight: λ₃ (paper: 0.05).
        level: `sequence` (paper) or `token` (Welleck et al. 2020).
    """

    weight: float = 0.05
    level: Level = "sequence"

    def __post_init__(self) -> None:
        _check(self.weight)

    def __call__(self, logprobs: Tensor, targets: Targets) -> Tensor:
        """See `unlikelihood`."""
        return unlikelihood(logprobs, targets, self.weight, self.level)


@dataclass(frozen=True)
class REDI(Objective):
    """REDI: see `reinforcement_distillation`.

    Attributes:
        weight: α (Xu et al. 2025: 0.8).
    """

    weight: float = 0.8

    def __post_init__(self) -> None:
        _check(self.weight)

    def __call__(self, logprobs: Tensor, targets: Targets) -> Tensor:
        """See `reinforcement_distillation`."""
        return reinforcement_distillation(logprobs, targets, self.weight)


def _check(weight: float) -> None:
    if weight < 0:
        raise InputError(
            f"must not be negative, found {weight}",
            field="model.objective.weight",
            remedy="0 leaves the wrong rationales out",
        )
