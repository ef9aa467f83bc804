"""An alarm for losses that lower the likelihood of wrong rationales: that of right ones must not fall with it."""

from __future__ import annotations

import math
import sys
from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.finite import stopping
from dust2gold.core.errors import InputError
from lightning_modules.components.losses.targets import is_padding


class CollapseAlarm(L.Callback):
    """Warns when right rationales become less likely while a model trains.

    Every `window` training batches it takes the mean log P of a target token of right rationales over them, in nats,
    and logs it as `collapse/positive_logprob`, with `collapse/fallen`, how far it lies below the best such mean so far.
    A fall of more than `drop` is warned of on stderr, at most once in `every` optimizer steps. Several processes log
    and warn of rank 0's share. A fall of more than `stop`, of any process's share, ends training and saves the last
    batch; the best adapter stays.

    Args:
        window: Batches a mean is taken over.
        drop: Nats per token below the best mean that count as a collapse; 0.3 is a probability of 0.74 times the best.
        every: Optimizer steps between warnings.
        stop: Nats per token below the best mean that end training, null: none; 5 is a probability of 0.007 times the
            best.
    """

    def __init__(self, window: int = 20, drop: float = 0.3, every: int = 200, stop: float | None = 5.0) -> None:
        if window < 1:
            raise InputError(f"must be at least 1, found {window}", field="CollapseAlarm.window")
        if drop <= 0:
            raise InputError(f"must be positive, found {drop}", field="CollapseAlarm.drop")
        self.window = window
        self.drop = drop
        self.every = every
        self.stop = stop
        self.best = -math.inf
        self._warned: int | None = None
        self._sums: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """The best mean so far and the step of the last warning."""
        return {"best": self.best, "warned": self._warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` saved; the window starts empty."""
        self.best, self._warned = state_dict["best"], state_dict["warned"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the batch to the window, and checks a full one."""
        positive: Tensor | None = getattr(pl_module, "last_positive", None)
        if positive is None:
            return
        # A padding batch counts as one without right rationales, so that the windows of all processes fill at the same
        # batch, where they communicate.
        positive = positive[:0] if is_padding(batch) else positive
        self._sums.append(torch.stack([positive.double().sum(), positive.new_tensor(len(positive)).double()]))
        if len(self._sums) == self.window:
            total, count = torch.stack(self._sums).sum(0).tolist()  # waits for the GPU, once a window
            self._sums.clear()
            fallen = self._check(trainer, total / count) if count else 0.0
            too_far = self.stop is not None and not fallen <= self.stop
            if trainer.strategy.reduce_boolean_decision(too_far, all=False):
                what = f"log P per token of right rationales fell {fallen:.2f} nats below its best"
                raise stopping(trainer, what, [batch], [batch], [])

    def _check(self, trainer: L.Trainer, mean: float) -> float:
        """Compares a window's mean with the best and returns how far it fell; a NaN counts as the furthest."""
        self.best = max(self.best, mean)  # a NaN never is the best
        fallen = self.best - mean
        for logger in trainer.loggers:
            logger.log_metrics({"collapse/positive_logprob": mean, "collapse/fallen": fallen}, trainer.global_step)
        due = self._warned is None or trainer.global_step - self._warned >= self.every
        if not fallen <= self.drop and due and trainer.is_global_zero:
            self._warned = trainer.global_step
            print(
                f"collapse: right rationales have become less likely: log P per token {mean:.2f} over the last "
                f"{self.window} batches, {self.best:.2f} at the best (step {trainer.global_step}). "
                "Lower the weight of the wrong ones or the learning rate",
                file=sys.stderr,
            )
        return fallen
