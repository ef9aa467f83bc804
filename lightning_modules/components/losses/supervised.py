"""Maximum likelihood: cross-entropy over the targets of a batch."""

from __future__ import annotations

from torch import Tensor

from lightning_modules.components.losses.targets import Targets, on_right


def cross_entropy(logprobs: Tensor, targets: Targets) -> Tensor:
    """−log P(target) [N], mean over all target tokens of the step (MLE); 0, with gradient 0, without targets."""
    return -logprobs.sum() / targets.all.tokens


def positive_cross_entropy(logprobs: Tensor, targets: Targets) -> Tensor:
    """−E_pos log P: MLE on the right rationales of the batch, mean over their target tokens."""
    return -logprobs[on_right(targets)].sum() / targets.positives.tokens
