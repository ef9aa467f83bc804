"""Stage 1, first half: M_neg, a LoRA on wrong rationales; the same module trains every plain MLE student."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_modules.base import StudentModule
from lightning_modules.components.losses.supervised import cross_entropy
from lightning_modules.components.losses.targets import Targets


class NegativeModel(StudentModule):
    """Maximum likelihood with one LoRA: max E log P(r, ŷ | x; θ).

    The data make the model: D_neg gives M_neg, D_pos CoT KD, both MIX, the data set's own solutions Fine-tune,
    D_pos with CoT KD's own right samples self-augmentation.
    """

    verdicts = "negative"

    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """Cross-entropy, mean over the target tokens of the optimizer step."""
        return {"loss": cross_entropy(self.target_logprobs(batch, targets), targets)}
