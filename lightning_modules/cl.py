"""CL: MLE on D_pos, with a question's hidden state pulled to its right rationales and pushed from its wrong ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.losses.contrast import info_nce, pooled
from lightning_modules.components.losses.supervised import positive_cross_entropy
from lightning_modules.components.losses.targets import Targets, at_targets
from lightning_modules.right_wrong import RightWrongModule


class CLModel(RightWrongModule):
    """L = −E_pos log P + w · InfoNCE(question; right rationales, wrong rationales) (docs/method.md, baselines).

    States are means of the last hidden states over a question's or a rationale's tokens, compared by cosine.

    Args:
        weight: w of the contrast (the paper does not say; ours: 0.1).
        temperature: τ of the contrast (the paper does not say; ours: 0.1).
        kwargs: As in `StudentModule`.
    """

    means_over_samples = frozenset({"contrast"})

    def __init__(self, weight: float = 0.1, temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if weight < 0:
            raise InputError(f"must not be negative, found {weight}", field="model.weight")
        if temperature <= 0:
            raise InputError(f"must be positive, found {temperature}", field="model.temperature")
        self.weight = weight
        self.temperature = temperature

    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """The sum of both terms, each of them, and log P by verdict."""
        hidden = self.hidden(batch)  # [B, T, d]
        logprobs = self.adapters.head.logprobs(at_targets(hidden, targets), targets.tokens)  # [N]
        prompt = batch["prompt_mask"].bool()  # [B, T]
        questions = pooled(hidden, prompt)  # [B, d]
        rationales = pooled(hidden, batch["attention_mask"].bool() & ~prompt)  # [B, d]
        contrast = info_nce(questions, rationales, targets, batch["groups"], self.temperature)
        likelihood = positive_cross_entropy(logprobs, targets)
        return {
            "loss": likelihood + self.weight * contrast,
            "cross_entropy": likelihood.detach(),
            "contrast": contrast.detach(),
            **self.logprob_means(logprobs, targets),
        }
