"""The base of the stages that are held near a frozen reference, a second adapter on the same base: DPO and KTO."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.stack import AdapterStack
from lightning_modules.components.losses.targets import Targets
from lightning_modules.right_wrong import RightWrongModule

REFERENCE = "reference"
"""Name of the frozen adapter that the policy is compared with."""


class ReferencedModule(RightWrongModule):
    """Compares with a reference, frozen and without dropout: no copy of the base.

    Args:
        reference: Adapter directory of the reference; default: the `adapter` that training starts from, or without one
            the base itself.
        beta: β, how strongly the reference holds.
        kwargs: As in `StudentModule`.
    """

    adapters_read = ("adapter", "reference")

    def __init__(self, reference: str | None = None, beta: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if beta <= 0:
            raise InputError(f"must be positive, found {beta}", field="model.beta")
        self.reference = reference
        self.beta = beta

    def build(self, stack: AdapterStack) -> None:
        """The reference frozen, then the policy."""
        reference = self.reference or self.adapter
        if reference is None:
            stack.add(REFERENCE, self.lora)  # a fresh LoRA adds 0
        else:
            stack.load(REFERENCE, reference)
        super().build(stack)

    def reference_logprobs(self, batch: dict[str, Any], targets: Targets) -> Tensor:
        """The reference's log P of the targets [N]."""
        with self.adapters.using(REFERENCE):
            return self.target_logprobs(batch, targets)
