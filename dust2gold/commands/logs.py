"""What each command of the Trainer leaves in `<default_root_dir>/<verb>/`, where TensorBoard's log is, too."""

from __future__ import annotations

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from dust2gold.core.files import write_atomically, write_json
from dust2gold.core.machine import machine, versions


class ConfigWriter(SaveConfigCallback):
    """Writes config.yaml, as the stock callback does, but whole or not at all; after `fit` training.json, too."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the command's settings."""
        file = Path(trainer.default_root_dir, TrainerFn(stage).value, self.config_filename)
        with write_atomically(file) as stream:
            stream.write(self.parser.dump(self.config, skip_unset=False))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what the settings do not say."""
        sizes = {True: 0, False: 0}
        for parameter in pl_module.parameters():
            sizes[parameter.requires_grad] += parameter.numel()
        facts = {
            "schema": 1,
            "steps": trainer.global_step,
            "trained_parameters": sizes[True],
            "frozen_parameters": sizes[False],  # 4-bit weights count as they are stored
            "processes": trainer.world_size,
            "versions": versions(),
            "machine": machine(),
        }
        if trainer.is_global_zero:
            write_json(Path(trainer.default_root_dir, "fit", "training.json"), facts, indent=1)
