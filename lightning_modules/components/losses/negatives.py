"""Losses that learn from right and wrong rationales at once: NT, UL and REDI (docs/method.md, baselines).

Each is minimised and takes log P of a batch's targets (natural log, [N]); the batch must have each sample's verdict.
Prompt and padding are no targets and never enter. E_pos and E_neg are means over the whole optimizer step, each over
its own verdict: over target tokens, as everywhere in MLE here, or over samples where a loss is a function of whole
sequences. A batch without one of the verdicts adds 0 to that mean.
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


class Objective(ABC):
    """A loss over right and wrong rationales with its settings; a config names its class.

    Attributes:
        weight: Of the wrong rationales; 0 leaves them out.
    """

    weight: float

    def __post_init__(self) -> None:
        if self.weight < 0:
            problem, remedy = f"must not be negative, found {self.weight}", "0 leaves the wrong rationales out"
            raise InputError(problem, field="model.objective.weight", remedy=remedy)

    @abstractmethod
    def __call__(self, logprobs: Tensor, targets: Targets) -> Tensor:
        """The scalar to minimise, from log P of the targets [N]."""


@dataclass(frozen=True)
class NegativeTraining(Objective):
    """NT: L = −E_pos log P(r, ŷ | x) + λ₂ E_neg log P(r, ŷ | x).

    Direction: raises the likelihood of right rationales, lowers that of wrong ones. The second term has no lower bound:
    with a large λ₂ everything collapses. Reduction: both E are means over the target tokens of their verdict.

    Attributes:
        weight: λ₂ (paper: 0.05); 0 is MLE on D_pos.
    """

    weight: float = 0.05

    def __call__(self, logprobs: Tensor, targets: Targets) -> Tensor:
        """The class's formula."""
        penalty = logprobs[~on_right(targets)].sum() / targets.negatives.tokens
        return positive_cross_entropy(logprobs, targets) + self.weight * penalty


@dataclass(frozen=True)
class Unlikelihood(Objective):
    """UL: L = −E_pos log P(r, ŷ | x) − λ₃ E_neg log(1 − P(r, ŷ | x)).

    Direction: as NT, but bounded below by 0: a wrong rationale that is improbable already is left alone. Reduction:
    E_pos is the mean over the target tokens of right rationales, E_neg by `level`:

    - `sequence`: P is the wrong rationale's length-normalised probability exp(mean_t log p_t) (the product over its
      tokens underflows), E_neg the mean over wrong samples.
    - `token`: every wrong rationale's token is a negative candidate with P = p_t, E_neg the mean over wrong samples'
      target tokens (Welleck et al. 2020, eq. 4, with the sequence's own tokens as candidates).

    Attributes:
        weight: λ₃ (paper: 0.05); 0 is MLE on D_pos.
        level: `sequence` (paper) or `token` (Welleck et al. 2020).
    """

    weight: float = 0.05
    level: Literal["sequence", "token"] = "sequence"

    def __call__(self, logprobs: Tensor, targets: Targets) -> Tensor:
        """The class's formula."""
        if self.level == "token":
            penalty = log1mexp(logprobs[~on_right(targets)]).sum() / targets.negatives.tokens
        else:
            counted = torch.bincount(targets.sample, minlength=targets.samples) > 0  # [S]; no targets, no P
            wrong = sample_means(logprobs, targets)[~verdicts(targets) & counted]  # [S⁻]
            penalty = log1mexp(wrong).sum() / targets.negatives.samples
        return positive_cross_entropy(logprobs, targets) - self.weight * penalty


@dataclass(frozen=True)
class REDI(Objective):
    """REDI: L = −E_pos[log P(y | x) / |y|] + α E_neg[log P(y | x) / |y|] (Xu et al. 2025, arXiv 2505.24850, stage 2).

    Direction: as NT, on a student trained on D_pos already. Reduction: mean over each sample's target tokens (EOS
    included), then over the samples of a verdict; over pairs of one right and one wrong rationale the two E together
    are the paper's mean over pairs.

    Attributes:
        weight: α (Xu et al. 2025: 0.8); 0 is length-normalised MLE on D_pos.
    """

    weight: float = 0.8

    def __call__(self, logprobs: Tensor, targets: Targets) -> Tensor:
        """The class's formula."""
        normalised, right = sample_means(logprobs, targets), verdicts(targets)  # [S]
        likelihood = normalised[right].sum() / targets.positives.samples
        return -likelihood + self.weight * normalised[~right].sum() / targets.negatives.samples
