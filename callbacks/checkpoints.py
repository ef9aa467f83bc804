"""Lightning checkpoints at a place that does not depend on the logger's version."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class RunCheckpoint(ModelCheckpoint):
    """Saves `<root>/checkpoints/last.ckpt` every so many optimizer steps, for `--ckpt_path last` to go on from.

    It holds the trained adapter, the optimizer and the loops' state, never the base.

    Args:
        every_n_train_steps: Optimizer steps between checkpoints.
        save_top_k: How many older ones to keep beside the last.
    """

    def __init__(self, every_n_train_steps: int = 200, save_top_k: int = 0) -> None:
        super().__init__(
            every_n_train_steps=every_n_train_steps,
            save_top_k=save_top_k,
            save_last=True,
            enable_version_counter=False,  # a run begun anew replaces last.ckpt: last-v1.ckpt would never be found
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Chooses the directory under the Trainer's `default_root_dir`."""
        self.dirpath = str(checkpoint_directory(trainer))
        super().setup(trainer, pl_module, stage)


def checkpoint_directory(trainer: L.Trainer) -> Path:
    """Where a run's checkpoints lie."""
    return Path(trainer.default_root_dir) / "checkpoints"
