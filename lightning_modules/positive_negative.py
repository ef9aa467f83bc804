"""NT, UL and REDI: one LoRA whose loss raises right rationales and lowers wrong ones; they differ in the loss alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_modules.components.losses.negatives import NegativeTraining, Objective
from lightning_modules.components.losses.targets import Targets
from lightning_modules.right_wrong import RightWrongModule


class PositiveNegativeModel(RightWrongModule):
    """Minimises an objective over D_pos and D_neg (docs/method.md, baselines).

    NT and UL start from the base model; REDI starts from CoT KD's adapter (`adapter`) and wants pairs.

    Args:
        objective: The loss: `NegativeTraining` (default), `Unlikelihood` or `REDI`.
        kwargs: As in `StudentModule`.
    """

    def __init__(self, objective: Objective | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.objective = objective or NegativeTraining()

    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """The objective, and log P by verdict."""
        logprobs = self.target_logprobs(batch, targets)  # [N]
        return {"loss": self.objective(logprobs, targets), **self.logprob_means(logprobs, targets)}
