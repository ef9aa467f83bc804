"""Callbacks that stop a run where a test wants it stopped, and note what it trained on."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L

from lightning_modules.components.losses.targets import is_filler


class Killed(BaseException):
    """Ends a run as a signal would: Lightning gets to save nothing."""


class Kill(L.Callback):
    """Kills training after so many batches of this process.

    Args:
        after: Batches.
        politely: Stop as Ctrl-C does, which Lightning turns into an exit.
    """

    def __init__(self, after: int, politely: bool = False) -> None:
        self.left = after
        self.error = KeyboardInterrupt if politely else Killed

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


class Signal(L.Callback):
    """Sends this process a signal after so many training batches, as a scheduler does.

    Args:
        after: Batches.
        number: The signal's; SIGTERM by default.
        rank: Of the process to send it to.
    """

    def __init__(self, after: int, number: int = int(signal.SIGTERM), rank: int = 0) -> None:
        self.left = after
        self.number = number
        self.rank = rank

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0 and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)


class Log(L.Callback):
    """Notes the tokens of each training batch and each validation score."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.scores: list[float] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self.batches.append(batch["input_ids"].tolist())

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        self.scores.append(float(trainer.callback_metrics["val/loss"]))


class KillValidation(L.Callback):
    """Kills the run when its validation begins for the so-manieth time.

    Args:
        at: Number of the validation in this process, from 1.
    """

    def __init__(self, at: int) -> None:
        self.left = at

    def on_validation_start(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class KillPrediction(L.Callback):
    """Stops `predict` after so many batches, as Ctrl-C does.

    Args:
        after: Batches.
        by_signal: Send SIGTERM instead, before the last of these batches: its first question is the last to be written.
    """

    def __init__(self, after: int, by_signal: bool = False) -> None:
        self.left = after
        self.by_signal = by_signal

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        if self.by_signal and self.left == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0 and not self.by_signal:
            raise KeyboardInterrupt


class LossFile(L.Callback):
    """Appends every loss, exact to the last bit, to `<root>/losses.txt`: what several killed processes trained on."""

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._write(trainer, f"train {trainer.current_epoch}:{batch_idx}", float(outputs["loss"]))

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._write(trainer, f"validation {trainer.global_step}", float(trainer.callback_metrics["val/loss"]))

    def _write(self, trainer: L.Trainer, name: str, value: float) -> None:
        with (Path(trainer.default_root_dir) / "losses.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{name} {value.hex()}\n")


class Stand(L.Callback):
    """Stands still after so many training batches, until it is killed.

    Args:
        after: Batches.
        rank: Of the process to stand still.
        file: Made when it does.
    """

    def __init__(self, after: int, rank: int, file: str) -> None:
        self.left = after
        self.rank = rank
        self.file = Path(file)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0 and trainer.global_rank == self.rank:
            self.file.touch()
            time.sleep(3600)


class Shares(L.Callback):
    """Appends to `<root>/share-<rank>.jsonl` what this process trained on (epoch and ids), answered or scored (ids)."""

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not is_filler(batch):
            self._note(trainer, trained=batch.get("ids") or batch["question_ids"], epoch=trainer.current_epoch)

    def on_test_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self._note(trainer, answered=[each["id"] for each in batch.get("questions", batch.get("records"))])

    def on_predict_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self.on_test_batch_end(trainer, module, outputs, batch)

    def _note(self, trainer: L.Trainer, **facts: Any) -> None:
        path = Path(trainer.default_root_dir) / f"share-{trainer.global_rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(facts) + "\n")
