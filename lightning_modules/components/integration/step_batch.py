"""The step matrices of all units in a few batched products, made once before a training pass through the decoder.

A unit's own matrices take about 60 small operations, forward and backward. On a GPU a small student waits for their
launches: with 60 units they outnumber all else. Units of one shape are stacked here, so each operation serves all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import nn
from torch.distributed.tensor import DTensor

from lightning_modules.components.integration.kernel import StepMatrices
from lightning_modules.components.integration.unit import Half, IntegrationUnit, IntegrationVariant, UnitWeights


def make_together(units: list[IntegrationUnit], halves: list[list[Half]], dtype: torch.dtype) -> list[StepMatrices]:
    """`IntegrationUnit.make_matrices` of U units of one shape, with U pairs of LoRA halves, in batched products."""
    sides = [
        Half(torch.stack([half.a for half in side]), torch.stack([half.b for half in side]), side[0].scale)
        for side in zip(*halves, strict=True)
    ]  # [U, r, d_in], [U, d_out, r]
    each: Any = zip(*(unit.weights for unit in units), strict=True)
    stacked: Any = (None if same[0] is None else torch.stack(same) for same in each)  # [U, ...] each
    read, spread, down, up, shift = units[0].make_matrices(UnitWeights(*stacked), sides, dtype)  # [U, ...], but `shift`
    downs: Any = [None] * len(units) if down is None else down.unbind()
    parts = zip(read.unbind(), spread.unbind(), downs, up.unbind(), strict=True)
    return [StepMatrices(*own, shift) for own in parts]


class StepBatch:
    """Gives units their matrices at the start of a training pass through the decoder, and takes them back at its end.

    With gradient checkpointing the backward pass needs them again: there they are taken back at the next pass's start.
    Left to the units themselves are passes without gradients (they keep theirs), compiled decoders, and weights that
    FSDP2 has sharded.
    """

    def __init__(self, layers: Mapping[str, LoraLayer], adapter: str) -> None:
        self.adapter = adapter
        self.layers = list(layers.values())

    def attach(self, decoder: nn.Module) -> None:
        """Hooks into the decoder's forward pass."""
        decoder.register_forward_pre_hook(self._give)
        decoder.register_forward_hook(self._end, always_call=True)

    def _variants(self) -> Iterator[tuple[LoraLayer, Any]]:
        for layer in self.layers:
            variant = layer.lora_variant.get(self.adapter)
            if isinstance(variant, IntegrationVariant):
                yield layer, variant

    def _give(self, decoder: nn.Module, _: Any) -> None:
        self._take()
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        groups: defaultdict[Any, list[tuple[IntegrationUnit, list[Half]]]] = defaultdict(list)
        for layer, variant in self._variants():
            unit = variant.unit
            if layer.active_adapters != [self.adapter] or not unit.up.weight.requires_grad:
                return
            if isinstance(unit.up.weight, DTensor):
                return
            halves = [variant.half(layer, name) for name in (self.adapter, variant.negative)]
            shapes = tuple((half.a.shape, half.b.shape, half.scale, half.a.device) for half in halves)
            dtype = unit.compute_dtype(unit.up.weight.device.type)
            groups[(shapes, unit.delta, unit.gate and unit.gate.scale, dtype)].append((unit, halves))
        for (*_, dtype), members in groups.items():
            units = [unit for unit, _ in members]
            for unit, matrices in zip(units, make_together(units, [pair for _, pair in members], dtype), strict=True):
                unit.given = matrices

    def _take(self) -> None:
        for _, variant in self._variants():
            variant.unit.given = None

    def _end(self, decoder: nn.Module, *_: Any) -> None:
        if not getattr(decoder, "gradient_checkpointing", False):
            self._take()
