"""KTO: right and wrong rationales, unpaired, each moved to its side of what the reference makes likely."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.base import STUDENT
from lightning_modules.components.losses.preference import kahneman_tversky, mismatched, reference_point
from lightning_modules.components.losses.targets import Targets, find_targets
from lightning_modules.referenced import ReferencedModule
from lightning_modules.right_wrong import RightWrongModule


class KTOModel(ReferencedModule):
    """L = E[λ_D σ(β (z₀ − r)) if right, λ_U σ(β (r − z₀)) if wrong], r = log P(y)/P_ref(y) (Ethayarajh et al. 2024).

    z₀ estimates KL(policy ‖ reference) from each question with the next row's rationale, on a process's batch.

    Args:
        right_weight: λ_D (Ethayarajh et al.: 1; of n right and m wrong samples they want λ_D n / λ_U m in [1, 4/3]).
        wrong_weight: λ_U (Ethayarajh et al.: 1).
        kwargs: As in `ReferencedModule` (Ethayarajh et al.: β = 0.1); a rationale a row, no loss on the prompt.
    """

    means_over_samples = frozenset({"loss", "kl"})
    own_means = RightWrongModule.own_means | {"kl"}

    def __init__(self, right_weight: float = 1.0, wrong_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, weight in (("right_weight", right_weight), ("wrong_weight", wrong_weight)):
            if weight < 0:
                raise InputError(f"must not be negative, found {weight}", field=f"model.{name}")
        self.weights = right_weight, wrong_weight

    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """KTO's loss, z₀, and log P by verdict."""
        reference = self.reference_logprobs(batch, targets)  # [N]
        divergence = self._reference_point(mismatched(batch))
        logprobs = self.target_logprobs(batch, targets)  # [N]
        loss = kahneman_tversky(logprobs, reference, divergence, targets, self.beta, self.weights)
        return {"loss": loss, "kl": divergence, **self.logprob_means(logprobs, targets)}

    def _reference_point(self, batch: dict[str, Any]) -> Tensor:
        """z₀ of mismatched rows, without dropout."""
        targets = find_targets(batch)
        with self.adapters.using(STUDENT):
            policy = self.target_logprobs(batch, targets)  # [N]
        return reference_point(policy, self.reference_logprobs(batch, targets), targets)
