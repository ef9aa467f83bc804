"""A student's decoder layers, compiled one by one: layers that are alike share what is compiled, so it takes seconds.

What is compiled holds for one shape. Packed rows differ in their last few tokens alone, and are padded here to
multiples of `WIDTH`; all other passes (validation, sampling) run as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from dust2gold.core.errors import InputError
from lightning_modules.components.integration.unit import IntegrationVariant

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BACKEND = "inductor"
WIDTH = 128
_FORMS = 64
"""More than a layer has: for the student and two teachers, an epoch's last, smaller batch, the first layer, other kinds
of layers. torch's own limit is 8, beyond which layers run as they are."""


class CompiledLayers:
    """The layers of a model in compiled form, beside the plain one; names of parameters stay what they are."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not self.layers:
            problem = f"cannot tell the layers of {type(model).__name__}"
            raise InputError(problem, field="model.compile", remedy="leave it out")
        self.calls = [torch.compile(layer._call_impl, backend=BACKEND) for layer in self.layers]
        adapted = (module for module in model.modules() if isinstance(module, LoraLayer))
        variants = (variant for layer in adapted for variant in layer.lora_variant.values())
        self.units = [variant.unit for variant in variants if isinstance(variant, IntegrationVariant)]

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Runs the block's passes through the compiled layers, unless a hook watches a unit: it would see nothing."""
        if any(unit._forward_hooks for unit in self.units):
            yield
            return
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(limit, _FORMS)
        for layer, call in zip(self.layers, self.calls, strict=True):
            layer._compiled_call_impl = call
        try:
            yield
        finally:
            for layer in self.layers:
                layer._compiled_call_impl = None
            torch._dynamo.config.recompile_limit = limit


def widened(rows: Tensor) -> Tensor:
    """Token or position ids [B, T] of packed rows, padded to a multiple of `WIDTH`."""
    return nn.functional.pad(rows, (0, -rows.shape[1] % WIDTH))
