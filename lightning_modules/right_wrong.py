"""The base of the stages that learn from right and wrong rationales at once: it logs how likely each kind is."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_modules.base import StudentModule
from lightning_modules.components.losses.targets import Targets, on_right

POSITIVE_LOGPROB, NEGATIVE_LOGPROB = "positive_logprob", "negative_logprob"


class RightWrongModule(StudentModule):
    """Base of NT, UL, REDI, DPO, KTO, GLOW and CL: one LoRA.

    Logs `positive_logprob` and `negative_logprob`: mean log P of a target token, in nats, of right and of wrong
    rationales.
    """

    verdicts = "both"
    own_means = frozenset({POSITIVE_LOGPROB, NEGATIVE_LOGPROB})

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.last_positive: Tensor | None = None
        """log P of the last batch's right rationales' targets, [N⁺]; `callbacks.collapse.CollapseAlarm` reads it."""

    def weight_of(self, part: str, targets: Targets) -> int:
        """Each verdict's log P by its own targets."""
        if part not in (POSITIVE_LOGPROB, NEGATIVE_LOGPROB):
            return super().weight_of(part, targets)
        right = int(on_right(targets).sum())
        return right if part == POSITIVE_LOGPROB else len(targets.tokens) - right

    def logprob_means(self, logprobs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Means of log P by verdict, to log beside the loss; 0, with weight 0, where a batch lacks a verdict."""
        right, logprobs = on_right(targets), logprobs.detach()  # [N] each
        self.last_positive, negative = logprobs[right], logprobs[~right]  # [N⁺], [N⁻]
        return {
            name: values.sum() / max(1, len(values))
            for name, values in ((POSITIVE_LOGPROB, self.last_positive), (NEGATIVE_LOGPROB, negative))
        }
