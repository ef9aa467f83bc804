"""Writes the results of `test`, by question and overall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from datamodules.components.records.predictions import Row, write_metrics, write_predictions
from lightning_modules.components.accuracy import gather_objects


class PredictionWriter(L.Callback):
    """Writes predictions.jsonl and metrics.json into the Trainer's `default_root_dir` at the end of `test`.

    It collects the rows that a module's `test_step` returns; docs/formats.md says what a row holds.
    """

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets an earlier test."""
        self.rows: list[Row] = []

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collects a batch's rows."""
        self.rows += outputs

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers the rows of all ranks and writes both files on the first."""
        rows = [row for part in gather_objects(self.rows) for row in part]
        if trainer.is_global_zero:
            directory = Path(trainer.default_root_dir)
            write_predictions(directory, rows)
            write_metrics(directory, {name: float(value) for name, value in trainer.callback_metrics.items()})
