"""The distribution of NCE's β over the samples it trains on."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.tensorboard import writer_of


class CalibrationMonitor(L.Callback):
    """Logs a histogram `nce/beta` of β ∈ [0, 1), one value per sample, over the last `every` training batches.

    Args:
        every: Batches between histograms.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = every
        self._betas: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collects the batch's β and writes a histogram now and then."""
        beta = getattr(pl_module, "last_beta", None)
        if beta is not None:
            self._betas.append(beta.detach().float())
        if len(self._betas) >= self.every:
            writer = writer_of(trainer)
            if writer is not None:
                writer.add_histogram("nce/beta", torch.cat(self._betas).cpu().numpy(), trainer.global_step)
            self._betas.clear()
