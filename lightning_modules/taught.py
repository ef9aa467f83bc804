"""The base of the stages that learn from M_NAT: teacher and student are adapters on one frozen base."""

from __future__ import annotations

from typing import Any

from torch import nn

from dust2gold.core.errors import InputError
from lightning_modules.base import StudentModule
from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE, load_nat
from lightning_modules.components.adapters.stack import AdapterStack


class TaughtModule(StudentModule):
    """Has NAT frozen beside the student's own LoRA. Teachers see no dropout.

    Args:
        nat: The teacher: a trained NAT directory, which holds M_neg too. Needed to train, not to sample.
        negative: M_neg's adapter directory; with it `nat` is any stage's plain adapter, such as MIX's.
        kwargs: As in `StudentModule`.
    """

    adapters_read = ("adapter", "nat", "negative")

    def __init__(self, nat: str | None = None, negative: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.nat = nat
        self.negative = negative
        self.units = nn.ModuleDict()

    def build(self, stack: AdapterStack) -> None:
        """The teachers frozen, then the student's own LoRA on the same base."""
        if self.nat is not None and self.negative is not None:
            stack.load(NEGATIVE, self.negative)
            stack.load(POSITIVE, self.nat)
        elif self.nat is not None:
            self.units = load_nat(stack, self.nat)
        super().build(stack)

    def setup(self, stage: str) -> None:
        """Refuses to train without a teacher."""
        if stage in ("fit", "validate") and self.nat is None:
            remedy = "give --model.nat the adapter directory of the NAT stage"
            raise InputError("a teacher is needed", field="model.nat", remedy=remedy)
