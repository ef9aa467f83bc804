"""Callbacks that stop a run after so many batches (or validations) of a process, and note what it trained on."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L

from lightning_modules.components.losses.targets import is_padding


class Killed(BaseException):
    """Ends a run as a signal would: Lightning gets to save nothing."""


class _Countdown(L.Callback):
    def __init__(self, after: int) -> None:
        self.left = after

    def due(self) -> bool:
        """Counts one, and says whether it was the last."""
        self.left -= 1
        return self.left == 0


class Kill(_Countdown):
    """Kills training; `politely` stops it as Ctrl-C does, which Lightning turns into an exit."""

    def __init__(self, after: int, politely: bool = False) -> None:
        super().__init__(after)
        self.error = KeyboardInterrupt if politely else Killed

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        if self.due():
            raise self.error


class KillValidation(_Countdown):
    """Kills the run when a validation begins."""

    def on_validation_start(self, *args: Any, **kwargs: Any) -> None:
        if self.due():
            raise Killed


class Stop(_Countdown):
    """Ends training early and in order, as EarlyStopping and Timer do."""

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.should_stop |= self.due()


class KillPrediction(_Countdown):
    """Stops `predict` as Ctrl-C does, or `by_signal` before the last batch, whose first question is still written."""

    def __init__(self, after: int, by_signal: bool = False) -> None:
        super().__init__(after)
        self.by_signal = by_signal

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        if self.by_signal and self.left == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        if self.due() and not self.by_signal:
            raise KeyboardInterrupt


class Signal(_Countdown):
    """Sends this process a signal during training, as a scheduler does."""

    def __init__(self, after: int, number: int = int(signal.SIGTERM), rank: int = 0) -> None:
        super().__init__(after)
        self.number, self.rank = number, rank

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if self.due() and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)


class Stand(_Countdown):
    """Stands still during training until it is killed, and makes `file` when it does."""

    def __init__(self, after: int, rank: int, file: str) -> None:
        super().__init__(after)
        self.rank, self.file = rank, Path(file)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if self.due() and trainer.global_rank == self.rank:
            self.file.touch()
            time.sleep(3600)


class Log(L.Callback):
    """Notes the tokens of each training batch and each validation score."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.scores: list[float] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self.batches.append(batch["input_ids"].tolist())

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        self.scores.append(float(trainer.callback_metrics["val/loss"]))


class LossFile(L.Callback):
    """Appends every loss, exact to the last bit, to `<root>/losses.txt`: what several killed processes trained on."""

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        _append(trainer, "losses.txt", f"train {trainer.current_epoch}:{batch_idx} {float(outputs['loss']).hex()}")

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        loss = float(trainer.callback_metrics["val/loss"])
        _append(trainer, "losses.txt", f"validation {trainer.global_step} {loss.hex()}")


class Shares(L.Callback):
    """Appends to `<root>/share-<rank>.jsonl` what this process trained on (epoch and ids), answered or scored (ids)."""

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not is_padding(batch):
            self._note(trainer, trained=batch.get("ids") or batch["question_ids"], epoch=trainer.current_epoch)

    def on_test_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self._note(trainer, answered=[each["id"] for each in batch.get("questions", batch.get("records"))])

    def on_predict_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self.on_test_batch_end(trainer, module, outputs, batch)

    def _note(self, trainer: L.Trainer, **facts: Any) -> None:
        _append(trainer, f"share-{trainer.global_rank}.jsonl", json.dumps(facts))


def _append(trainer: L.Trainer, name: str, line: str) -> None:
    root = Path(trainer.default_root_dir)
    root.mkdir(parents=True, exist_ok=True)
    with (root / name).open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")


class SignalAt(L.Callback):
    """Sends this process a signal in the hook of this name, or already when it is made: `init`."""

    def __init__(self, hook: str, number: int) -> None:
        self.number = number
        if hook == "init":
            self._send()
        else:
            setattr(self, hook, self._send)

    def _send(self, *args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), self.number)
