"""DPO: pairs of a right and a wrong rationale of one question, held near the CoT KD student it starts from."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.losses.preference import direct_preference
from lightning_modules.components.losses.targets import Targets
from lightning_modules.referenced import ReferencedModule
from lightning_modules.right_wrong import RightWrongModule


class DPOModel(ReferencedModule):
    """L = −E log σ(β [log P(y⁺)/P_ref(y⁺) − log P(y⁻)/P_ref(y⁻)]) (Rafailov et al. 2023).

    Args:
        kwargs: As in `ReferencedModule` (Rafailov et al.: β = 0.1); `adapter` is needed to train.
    """

    means_over_samples = frozenset({"loss", "accuracy", "margin"})
    own_means = RightWrongModule.own_means | {"accuracy", "margin"}

    def setup(self, stage: str) -> None:
        """Refuses to train without `adapter`."""
        if stage in ("fit", "validate") and self.adapter is None:
            remedy = "give --model.adapter the adapter directory of CoT KD, e.g. runs/demo/cot-kd/adapter"
            raise InputError("DPO starts from a trained student", field="model.adapter", remedy=remedy)

    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """DPO's loss, log P by verdict, the mean margin and the share of pairs in which it is positive."""
        reference = self.reference_logprobs(batch, targets)  # [N]
        logprobs = self.target_logprobs(batch, targets)  # [N]
        result = direct_preference(logprobs, reference, targets, batch["groups"], self.beta)
        return {
            "loss": result.loss,
            "margin": result.margins.mean(),
            "accuracy": (result.margins > 0).float().mean(),
            **self.logprob_means(logprobs, targets),
        }
