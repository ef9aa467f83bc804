"""Grades the greedy answers of `test`, overall and by subject and level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from callbacks.grading import graded
from callbacks.predictions import PredictionWriter
from callbacks.tensorboard import SHOWN, show_rationales
from datamodules.components.records.predictions import prediction
from lightning_modules.components.accuracy import GroupedAccuracy


class AnswerAccuracy(PredictionWriter):
    """Logs `test/accuracy` with its groups and writes predictions.jsonl and metrics.json at the end of `test`.

    In the report these answers are a row of the name of the run's directory, as in "cot-kd", "neg", "nat" or "nce".
    """

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets an earlier test."""
        super().on_test_start(trainer, pl_module)
        self.method = Path(trainer.default_root_dir).resolve().name
        self.accuracy = GroupedAccuracy()

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Grades a batch of greedy answers and collects their rows."""
        records = graded(trainer, self.method, outputs, batch)
        rows = [prediction(record, self.method) for record in records]
        groups = [{"subject": record.subject, "level": record.level} for record in records]
        self.accuracy.update([row["correct"] for row in rows], groups)
        super().on_test_batch_end(trainer, pl_module, rows, batch, batch_idx, dataloader_idx)
        if batch_idx == 0:
            show_rationales(trainer, f"test/{self.method}", records[:SHOWN])

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the accuracies; they are the same on every rank."""
        values = self.accuracy.compute()
        pl_module.log_dict({f"test/{name}": value.float() for name, value in values.items() if "accuracy" in name})
