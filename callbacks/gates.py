"""The gate of NAT's integration units: α_neg per layer, as histograms and means."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from callbacks.tensorboard import writer_of
from lightning_modules.components.integration.unit import IntegrationUnit, Mixed

SATURATED = 0.45
"""|α_neg| from which a gate counts as saturated."""


class GateMonitor(L.Callback):
    """Logs α_neg ∈ [−0.5, 0.5] of every integration unit on the first validation batch.

    Histograms `gate/alpha_neg/<layer>` hold one value per token, padding left out; `gate/alpha_neg_mean/<layer>` is
    their mean and `gate/alpha_neg_mean` the mean over all layers; `gate/saturation` is the share of values, over all
    layers, beyond ±0.45, where the gate hardly learns any more. Below 0 negative knowledge is subtracted, above it is
    added.
    """

    def __init__(self) -> None:
        self._hooks: list[Any] = []
        self._values: dict[str, Tensor] = {}

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Hooks the units for the first batch."""
        if batch_idx == 0 and trainer.is_global_zero:
            self._hooks = [
                module.register_forward_hook(partial(self._keep, name))
                for name, module in pl_module.named_modules()
                if isinstance(module, IntegrationUnit) and name.startswith("units.")
            ]

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Logs their α_neg and removes the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        writer, real = writer_of(trainer), batch["attention_mask"].bool()  # [B, T]
        if writer is not None and self._values:
            values = {name: alpha[real].float().cpu() for name, alpha in self._values.items()}  # [tokens]
            for name, value in values.items():
                writer.add_histogram(f"gate/alpha_neg/{name}", value.numpy(), trainer.global_step)
                writer.add_scalar(f"gate/alpha_neg_mean/{name}", value.mean().item(), trainer.global_step)
            mean = sum(value.mean().item() for value in values.values()) / len(values)
            writer.add_scalar("gate/alpha_neg_mean", mean, trainer.global_step)
            saturated = (torch.cat(list(values.values())).abs() > SATURATED).float().mean()
            writer.add_scalar("gate/saturation", saturated.item(), trainer.global_step)
        self._values.clear()

    def _keep(self, name: str, module: nn.Module, inputs: Any, mixed: Mixed) -> None:
        if mixed.alpha_negative is not None:  # an ablation has no gate
            layer = name.removeprefix("units.").replace("/", ".").removeprefix("base_model.model.")
            self._values[layer] = mixed.alpha_negative
