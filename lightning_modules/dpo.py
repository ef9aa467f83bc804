"""DPO: pairs of a right and a wrong rationale of one question, held near the CoT KD student it starts from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.stack import AdapterStack
from lightning_modules.components.losses.preference import direct_preference
from lightning_modules.components.losses.targets import Targets
from lightning_modules.right_wrong import RightWrongModule

REFERENCE = "reference"
"""Name of the frozen adapter that the policy is compared with."""


class DPOModel(RightWrongModule):
    """L = −E log σ(β [log P(y⁺)/P_ref(y⁺) − log P(y⁻)/P_ref(y⁻)]) (Rafailov et al. 2023).

    The reference is a second adapter on the same base, frozen and without dropout: no copy of the base.

    Args:
        reference: Adapter directory of the reference; default: the `adapter` that training starts from (CoT KD's).
        beta: β (Rafailov et al.: 0.1).
        kwargs: As in `StudentModule`; `adapter` is needed to train.
    """

    adapters_read = ("adapter", "reference")
    means_over_samples = frozenset({"loss", "accuracy", "margin"})
    own_means = RightWrongModule.own_means | {"accuracy", "margin"}

    def __init__(self, reference: str | None = None, beta: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if beta <= 0:
            raise InputError(f"must be positive, found {beta}", field="model.beta")
        self.reference = reference
        self.beta = beta

    def setup(self, stage: str) -> None:
        """Refuses to train without `adapter`."""
        if stage in ("fit", "validate") and self.adapter is None:
            remedy = "give --model.adapter the adapter directory of CoT KD, e.g. runs/demo/cot-kd/adapter"
            raise InputError("DPO starts from a trained student", field="model.adapter", remedy=remedy)

    def build(self, stack: AdapterStack) -> None:
        """The reference frozen, then the policy."""
        reference = self.reference or self.adapter
        if reference is not None:
            stack.load(REFERENCE, reference)
        super().build(stack)

    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """DPO's loss, log P by verdict, the mean margin and the share of pairs in which it is positive."""
        with torch.no_grad(), self.adapters.using(REFERENCE):
            reference = self.target_logprobs(batch, targets)  # [N]
        logprobs = self.target_logprobs(batch, targets)  # [N]
        result = direct_preference(logprobs, reference, targets, batch["groups"], self.beta)
        return {
            "loss": result.loss,
            "margin": result.margins.mean(),
            "accuracy": (result.margins > 0).float().mean(),
            **self.logprob_means(logprobs, targets),
        }
