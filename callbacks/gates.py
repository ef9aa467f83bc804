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
    """Logs α_neg ∈ [−0.5, 0.5] of every integration unit in training, at the steps at which the Trainer logs.

    Histograms `gate/alpha_neg/<layer>` hold one value per token of a batch, padding left out;
    `gate/alpha_neg_mean/<layer>` is their mean and `gate/alpha_neg_mean` the mean over all layers; `gate/saturation` is
    the share of values, over all layers, beyond ±0.45, where the gate hardly learns any more. Below 0 negative
    knowledge is subtracted, above it is added.
    """

    def __init__(self) -> None:
        self._hooks: list[Any] = []
        self._values: dict[str, Tensor] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hooks the units for a batch at which the Trainer logs; of accumulated batches, for the first."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if every and first and (trainer.global_step + 1) % every == 0 and writer_of(trainer) is not None:
            self._hooks = [
                module.register_forward_hook(partial(self._keep, name))
                for name, module in pl_module.named_modules()
                if isinstance(module, IntegrationUnit) and name.startswith("units.")
            ]
            self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs their α_neg and removes the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        writer, real = writer_of(trainer), batch["attention_mask"].bool()  # [B, T]
        if writer is not None and self._values:
            values = {name: alpha[real].float().cpu() for name, alpha in self._values.items()}  # [tokens]
            for name, value in values.items():
                # As many bins as TensorBoard draws: 0.3 ms and 0.6 kB instead of 2.5 ms and 9 kB.
                writer.add_histogram(f"gate/alpha_neg/{name}", value.numpy(), self._step, bins=30)
                writer.add_scalar(f"gate/alpha_neg_mean/{name}", value.mean().item(), self._step)
            mean = sum(value.mean().item() for value in values.values()) / len(values)
            writer.add_scalar("gate/alpha_neg_mean", mean, self._step)
            saturated = (torch.cat(list(values.values())).abs() > SATURATED).float().mean()
            writer.add_scalar("gate/saturation", saturated.item(), self._step)
        self._values.clear()

    def _keep(self, name: str, module: nn.Module, inputs: Any, mixed: Mixed) -> None:
        if mixed.alpha_negative is not None:  # an ablation has no gate
            layer = name.removeprefix("units.").replace("/", ".").removeprefix("base_model.model.")
            self._values[layer] = mixed.alpha_negative.detach()
