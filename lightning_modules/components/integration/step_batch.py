"""The step matrices of all units in a few batched products, made once before a training pass through the decoder.

A unit's own matrices take about 60 small operations, forward and backward. On a GPU a small student waits for their
launches: with 60 units they outnumber all else. Units of one kind are stacked here, so each operation serves all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from lightning_modules.components.integration.kernel import StepMatrices
from lightning_modules.components.integration.unit import Half, IntegrationUnit, IntegrationVariant, make_shift, padded


class Kind(NamedTuple):
    """What units must have in common to be stacked."""

    shapes: tuple[torch.Size, ...]  # of both LoRA halves' A and B
    scales: tuple[float, ...]  # positive, negative
    gate: float | None  # the logits' scale c; None without a gate
    delta: bool
    device: torch.device
    dtype: torch.dtype  # of the step matrices

    @property
    def ranks(self) -> tuple[int, int]:
        """Of the positive and the negative half."""
        return self.shapes[0][0], self.shapes[2][0]


class Member(NamedTuple):
    """A unit, and its LoRA halves: positive, negative."""

    unit: IntegrationUnit
    halves: list[Half]

    @property
    def kind(self) -> Kind:
        """What it must share with the units that it is stacked with."""
        unit, device = self.unit, self.unit.up.weight.device
        shapes = tuple(side.shape for half in self.halves for side in (half.a, half.b))
        scales = tuple(half.scale for half in self.halves)
        gate = None if unit.gate is None else unit.gate.scale
        return Kind(shapes, scales, gate, unit.delta, device, unit.compute_dtype(device.type))


def make_together(members: Sequence[Member], kind: Kind) -> list[StepMatrices]:
    """`IntegrationUnit.make_matrices` of U units of one kind in batched products."""
    units = [member.unit for member in members]
    halves = [half for member in members for half in member.halves]
    gates = [unit.gate for unit in units if unit.gate is not None]
    own = units[0].up.weight.dtype
    weights = [half.a.to(own) for half in halves] + [half.b.to(own) for half in halves]
    weights += [unit.down.weight for unit in units]
    weights += [gate.key.weight for gate in gates] + [gate.query.weight for gate in gates]
    with torch.autocast(kind.device.type, enabled=False):
        stacked, back, spread, *downs = _Together.apply(kind, len(units), *weights)  # type: ignore[no-untyped-call]
        downs, ups = (_cast(same, kind.dtype) for same in (downs, [unit.up.weight for unit in units]))
        reads = stacked[:, : back.shape[1]].to(kind.dtype).unbind()  # the first rows: [P; A]
        backs, spreads = back.to(kind.dtype).unbind(), [own.mT for own in spread.to(kind.dtype).unbind()]
    shift = None if kind.gate is None else make_shift(kind.dtype, kind.device)
    parts = zip(reads, backs, spreads, [None] * len(units) if kind.delta else downs, ups, strict=True)
    return [StepMatrices(*made, shift) for made in parts]


def _cast(weights: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """All of them in one operation."""
    return weights if weights[0].dtype == dtype else torch.stack([*weights]).to(dtype).unbind()


class _Together(torch.autograd.Function):
    """[P; A; P] [U, 6r, d_in] without a gradient, its part [A; P], and Sᵀ [U, 2, r, h] of U units; each one's W_1.

    With W = [W_1; W_K] and B of both halves: [Sᵀ, K] = s Bᵀ Wᵀ [U, 2r, h + d_k] and P = c K W_Q [U, 2r, d_in]. The
    backward pass stacks the weights once more instead of keeping copies of them.
    """

    @staticmethod
    def forward(ctx: Any, kind: Kind, units: int, *weights: Tensor) -> tuple[Tensor, ...]:
        a, b, own = weights[: 2 * units], weights[2 * units : 4 * units], weights[4 * units :]  # positive, negative, …
        down, *gate = _lists([*own], units)
        rank, (scale, other), h = max(kind.ranks), kind.scales, len(down[0])
        a_rows = torch.stack([padded(side.mT, rank).mT for side in a]).view(units, 2 * rank, -1)  # [U, 2r, d_in]
        b_rows = torch.stack([padded(side, rank).mT for side in b]).view(units, 2 * rank, -1)  # [U, 2r, d_out]
        if other != scale:
            b_rows[:, rank:] *= other / scale
        products = _product(scale, b_rows, _onto(down, gate).mT)  # [U, 2r, h + d_k]
        stacked, first = a_rows, 0
        if kind.gate is not None:
            scores = _product(kind.gate, products[..., h:], torch.stack(gate[1]))  # [U, 2r, d_in]
            stacked, first = torch.cat([scores, a_rows, scores], 1), 2 * rank  # [U, 6r, d_in]
        ctx.kind, ctx.units = kind, units
        ctx.save_for_backward(b_rows, products, *own)
        ctx.mark_non_differentiable(stacked)
        ctx.set_materialize_grads(False)
        spread = products[..., :h].unflatten(1, (2, rank))  # [U, 2, r, h]
        return stacked, stacked[:, first:], spread, *(weight.detach() for weight in down)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, _: None, d_rows: Tensor, d_spread: Tensor, *d_downs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        b_rows, products, *weights = ctx.saved_tensors
        kind, (down, *gate) = ctx.kind, _lists(weights, ctx.units)
        scale, h, d_products = kind.scales[0], len(down[0]), d_spread.flatten(1, 2)  # [U, 2r, h]
        d_gate: list[Tensor] = []
        if kind.gate is not None:
            d_scores = d_rows[:, d_rows.shape[1] // 2 :]  # [U, 2r, d_in]
            d_query = _product(kind.gate, products[..., h:].mT, d_scores)  # [U, d_k, d_in]
            d_keyed = _product(kind.gate, d_scores, torch.stack(gate[1]).mT)  # [U, 2r, d_k]
            d_products = torch.cat([d_products, d_keyed], -1)  # [U, 2r, h + d_k]
        rank = kind.ranks[0]  # the negative half is frozen
        d_b = _product(scale, _onto(down, gate).mT, d_products[:, :rank].mT)  # [U, d_out, r]
        d_halves = [d for same in (d_rows[:, :rank], d_b) for positive in same.unbind() for d in (positive, None)]
        d_onto = _product(scale, d_products.mT, b_rows)  # [U, h + d_k, d_out]
        own = [torch.zeros_like(weight) if d is None else d for d, weight in zip(d_downs, down, strict=True)]
        d_down = torch._foreach_add([*d_onto[:, :h].unbind()], own)
        if kind.gate is not None:
            d_gate = [*d_onto[:, h:].unbind(), *d_query.unbind()]
        return None, None, *d_halves, *d_down, *d_gate


def _lists(tensors: list[Tensor], length: int) -> list[list[Tensor]]:
    """Consecutive parts of one length."""
    return [tensors[start : start + length] for start in range(0, len(tensors), length)]


def _onto(down: list[Tensor], gate: list[list[Tensor]]) -> Tensor:
    """[W_1; W_K] of each unit [U, h + d_k, d_out]; without a gate W_1."""
    both = [weight for same in zip(down, *gate[:1], strict=True) for weight in same]
    return torch.cat(both).view(len(down), -1, both[0].shape[1])


def _product(scale: float, first: Tensor, second: Tensor) -> Tensor:
    """`scale` · first @ second [U, ...] in one operation."""
    return torch.baddbmm(first.new_empty(1, 1, 1), first, second, beta=0, alpha=scale)


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
        groups: defaultdict[Kind, list[Member]] = defaultdict(list)
        for layer, variant in self._variants():
            unit = variant.unit
            if layer.active_adapters != [self.adapter] or not unit.up.weight.requires_grad:
                return
            if isinstance(unit.up.weight, DTensor):
                return
            halves = [variant.half(layer, name) for name in (self.adapter, variant.negative)]
            if any(side.requires_grad for side in (halves[1].a, halves[1].b)):
                return
            member = Member(unit, halves)
            groups[member.kind].append(member)
        for kind, members in groups.items():
            for member, matrices in zip(members, make_together(members, kind), strict=True):
                member.unit.given = matrices

    def _take(self) -> None:
        for _, variant in self._variants():
            variant.unit.given = None

    def _end(self, decoder: nn.Module, *_: Any) -> None:
        if not getattr(decoder, "gradient_checkpointing", False):
            self._take()
