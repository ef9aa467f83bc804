"""M_rank's scores: written beside the samples they judge, and watched by verdict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.tensorboard import writer_of
from datamodules.components.records.records import write_rationales
from datamodules.pairs import PairDataModule
from dust2gold.core.errors import InputError
from lightning_modules.components.accuracy import gather_objects

_NEUTRAL = 0.5
"""The score of a rationale of whose question none could be scored: neither right nor wrong."""


class ScoreWriter(L.Callback):
    """Writes the records that `predict` scored, with `score` filled in, in the order of the input file.

    The file is written at the end, whole or not at all. What is too long to score gets the mean of its question's
    scores, so that it can vote. Where `trainer.limit_predict_batches` leaves records out, they get no score.

    Args:
        output: File to write; relative paths start at the Trainer's `default_root_dir`.
    """

    def __init__(self, output: str = "scored.jsonl") -> None:
        self.output = output

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets an earlier run's scores."""
        self._scores: dict[str, float] = {}

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keeps the batch's scores."""
        self._scores.update(zip((record["id"] for record in batch["records"]), outputs, strict=True))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gathers the scores of all ranks and writes the file on the first."""
        scores = {name: score for part in gather_objects(self._scores) for name, score in part.items()}
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, PairDataModule):
            problem = "ScoreWriter needs the records of a PairDataModule"
            raise InputError(problem, field="data", remedy="use configs/rank.yaml")
        if trainer.is_global_zero:
            count_scored = len(scores)
            scores |= _means(data, scores)
            path = Path(trainer.default_root_dir) / self.output
            count = write_rationales(path, (replace(r, score=scores.get(r.id)) for r in data.records))
            print(f"{count:,} samples, {count_scored:,} scored, in {path}")


def _means(data: PairDataModule, scores: Mapping[str, float]) -> dict[str, float]:
    """For each rationale that was too long to score the mean of its question's scores, or 0.5 where there are none."""
    by_question: dict[str, list[float]] = defaultdict(list)
    for record in data.records:
        if record.id in scores:
            by_question[record.question_id].append(scores[record.id])
    return {record.id: fmean(by_question[record.question_id] or [_NEUTRAL]) for record in data.too_long}


class ScoreMonitor(L.Callback):
    """Logs the mean score of right and of wrong rationales in validation, and histograms of both.

    `val/score_positive` and `val/score_negative` are means over the validation pairs; the histograms
    `val/scores/positive` and `val/scores/negative` show rank 0's share of them.
    """

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets the last epoch."""
        self._scores: dict[str, list[Tensor]] = {"positive": [], "negative": []}

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Logs the batch's means, to be averaged over the epoch, and keeps its scores."""
        for verdict, kept in self._scores.items():
            scores: Tensor = outputs[verdict].detach().float()
            mean = scores.sum() / max(1, len(scores))  # of no score in a batch that only fills a rank's turn
            pl_module.log_validation(f"score_{verdict}", mean, len(scores))
            kept.append(scores.cpu())

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Adds the histograms."""
        writer = writer_of(trainer)
        if writer is None or trainer.sanity_checking:
            return
        for verdict, scores in self._scores.items():
            if scores:
                writer.add_histogram(f"val/scores/{verdict}", torch.cat(scores).numpy(), trainer.global_step)
