"""Stage 1, second half: M_NAT, a positive LoRA beside the frozen negative one, mixed by integration units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dust2gold.core.errors import InputError
from lightning_modules.base import StudentModule
from lightning_modules.components.adapters.nat import UnitSettings, build_nat, load_nat, save_nat
from lightning_modules.components.adapters.stack import AdapterStack
from lightning_modules.components.losses.supervised import cross_entropy
from lightning_modules.components.losses.targets import Targets


class NATModel(StudentModule):
    """Negative Assistant Training: MLE on D_pos with both halves in every adapted layer (docs/method.md, stage 1).

    A fresh NAT equals the base model (W_2 starts at zero); the negative half gets no gradient.

    Args:
        negative: M_neg's adapter directory. Needed to train; a trained NAT (`adapter`) brings its own.
        positive: An adapter's directory that the positive half starts from, such as MIX's; null: a new one.
        units: Shape of the integration units.
        kwargs: As in `StudentModule`; `adapter` takes a NAT directory.
    """

    verdicts = "positive"
    adapters_read = ("adapter", "negative", "positive")

    def __init__(
        self,
        negative: str | None = None,
        units: UnitSettings = UnitSettings(),
        positive: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.negative = negative
        self.positive = positive
        self.unit_settings = units
        self.units = nn.ModuleDict()

    def build(self, stack: AdapterStack) -> None:
        """The negative LoRA frozen, the positive one and the units trainable."""
        if self.adapter is not None:
            self.units = load_nat(stack, self.adapter, trainable=True)
        elif self.negative is not None:
            self.units = build_nat(stack, self.negative, self.lora, self.unit_settings, self.positive)
        else:
            remedy = "give --model.negative the adapter directory of the NEG stage, or --model.adapter a trained NAT"
            raise InputError("NAT needs a negative half", field="model.negative", remedy=remedy)

    def trained_parts(self) -> list[tuple[list[nn.Parameter], float]]:
        """The positive LoRA, and the units where they have a learning rate of their own."""
        factor, units = self.unit_settings.lr_factor, list(self.units.parameters())
        if factor == 1:
            return super().trained_parts()
        own = {id(parameter) for parameter in units}
        return [([p for p in self.parameters() if id(p) not in own], 1.0), (units, factor)]

    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """Cross-entropy, mean over the batch's target tokens."""
        return {"loss": cross_entropy(self.target_logprobs(batch, targets), targets)}

    def write_adapter(self, directory: Path) -> None:
        """Both stock adapters and the units."""
        save_nat(self.adapters, self.units, directory)
