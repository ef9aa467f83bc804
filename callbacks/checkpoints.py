"""Lightning checkpoints at a place that does not depend on the logger's version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class RunCheckpoint(ModelCheckpoint):
    """Saves `<root>/checkpoints/last.ckpt` every so many optimizer steps, for `--ckpt_path last` to go on from.

    It holds the trained adapter, the optimizer and the loops' state, never the base.

    Args:
        every_n_train_steps: Optimizer steps between checkpoints.
        save_top_k: 0 keeps the last alone, 1 a copy under its step's name, -1 all of them.
    """

    def __init__(self, every_n_train_steps: int = 200, save_top_k: int = 0) -> None:
        super().__init__(
            every_n_train_steps=every_n_train_steps,
            save_top_k=save_top_k,
            save_last=True,
            enable_version_counter=False,  # a run begun anew replaces last.ckpt: last-v1.ckpt would never be found
        )
        self._waiting = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Chooses the directory under the Trainer's `default_root_dir`."""
        self.dirpath = str(checkpoint_directory(trainer))
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time; where validation comes next, after it.

        A run resumed from a checkpoint between the two would leave the validation out, and with it perhaps the best
        adapter.
        """
        fetcher = trainer.fit_loop._data_fetcher
        self._waiting = fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
        if not self._waiting:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves what waited for the validation."""
        if self._waiting:
            self._waiting = False
            super().on_train_batch_end(trainer, pl_module, None, None, 0)


def checkpoint_directory(trainer: L.Trainer) -> Path:
    """Where a run's checkpoints lie."""
    return Path(trainer.default_root_dir) / "checkpoints"
