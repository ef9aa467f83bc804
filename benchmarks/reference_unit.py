"""NAT as the paper writes it and its reference implementation runs it: what ours is measured against, not what we use.

Both branches are stacked to [tokens, 2, d_out], both go through W_K, W_1 and W_2, and autograd keeps everything.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.components.integration.unit import IntegrationUnit


class ReferenceVariant(LoraVariant):
    """Puts the plain form of a unit, with the unit's own weights, into a stock PEFT LoRA layer.

    Args:
        unit: Holds the weights; must have a gate.
        negative: Name of the frozen adapter.
    """

    def __init__(self, unit: IntegrationUnit, negative: str) -> None:
        if unit.gate is None or unit.delta:
            raise ValueError("the reference form has a gate and base outputs in both branches")
        self.unit, self.gate, self.negative = unit, unit.gate, negative

    def forward(  # type: ignore[override]  # PEFT's are static; it calls them through the instance
        self, module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        """Eq. 4 and 5, line by line."""
        inputs = {active_adapter: module.lora_dropout[active_adapter](x), self.negative: x}
        hidden = torch.stack(
            [result + module.lora_B[n](module.lora_A[n](seen)) * module.scaling[n] for n, seen in inputs.items()], -2
        )  # [..., 2, d_out]
        query, keys = self.gate.query(x), self.gate.key(hidden)
        shift = torch.tensor([0.5, -0.5], device=x.device)
        alpha = (query.unsqueeze(-2) * keys).sum(-1).softmax(-1) + shift
        values = self.unit.up(F.gelu(self.unit.down(hidden)))
        mixed: Tensor = result + (alpha.unsqueeze(-1) * values).sum(-2)
        return mixed
