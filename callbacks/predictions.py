"""Writes what `test` found, question by question and in sum."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L

from foundation.files import write_atomically
from foundation.json_lines import write_json_lines
from lightning_modules.components.accuracy import gather_objects

Row = dict[str, Any]


class PredictionWriter(L.Callback):
    """Writes predictions.jsonl and metrics.json into the Trainer's `default_root_dir` at the end of `test`.

    It collects the rows that a module's `test_step` returns; docs/architecture.md says what a row holds.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets an earlier test."""
        self.rows = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
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


def write_predictions(directory: Path, rows: Iterable[Row]) -> Path:
    """Writes predictions.jsonl whole or not at all.

    The lines are sorted by method, data set and question and hold each once: the file does not depend on how the
    questions were spread over devices, where a distributed sampler may have repeated some.

    Args:
        directory: Where to write it; made if need be.
        rows: `method, dataset, question_id, subject, level, correct, answer, gold`.

    Returns:
        The file.
    """
    unique = {(row["method"], row["dataset"], row["question_id"]): row for row in rows}
    path = directory / "predictions.jsonl"
    write_json_lines(path, ({"schema": 1, **unique[key]} for key in sorted(unique)))
    return path


def write_metrics(directory: Path, metrics: dict[str, float]) -> Path:
    """Writes metrics.json, sorted by name, whole or not at all; what JSON cannot hold (NaN, infinity) becomes null."""
    values = {name: value if math.isfinite(value) else None for name, value in sorted(metrics.items())}
    path = directory / "metrics.json"
    with write_atomically(path) as stream:
        stream.write(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    return path
