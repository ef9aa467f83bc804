"""How fast training goes, and how much of it is padding."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor


class TokenThroughput(L.Callback):
    """Logs `throughput/tokens_per_second` (real tokens, all processes) and `throughput/real_token_share`.

    The share is real tokens over padded positions. Both are over the last `every` training batches of this process.
    A batch's time runs from the end of the one before, so waiting for data counts; validation does not. A GPU is waited
    for at each value alone.

    Args:
        every: Batches between values.
    """

    def __init__(self, every: int = 20) -> None:
        self.every = every
        self._reset()

    def _reset(self) -> None:
        self._batches, self._padded, self._seconds = 0, 0, 0.0
        self._real: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock; a resumed epoch has no start of its own."""
        self._started = time.perf_counter()

    on_train_epoch_start = on_validation_end = on_train_start

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the time since the last batch, and logs after every `every` batches."""
        mask = batch["attention_mask"]
        self._real.append(mask.sum())
        self._batches += 1
        real = int(torch.stack(self._real).sum()) if self._batches == self.every else 0  # waits, so before the clock
        now = time.perf_counter()
        self._seconds, self._started = self._seconds + now - self._started, now
        self._padded += mask.numel()
        if self._batches == self.every:
            speed = real / self._seconds * trainer.world_size
            share = real / self._padded
            for logger in trainer.loggers:  # not by `pl_module.log`, which repeats a value until the next one comes
                logger.log_metrics(
                    {"throughput/tokens_per_second": speed, "throughput/real_token_share": share}, trainer.global_step
                )
            self._reset()
