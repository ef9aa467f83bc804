"""Writes the trained adapter, whole or not at all: the best so far or the last."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import ModelPruning, StochasticWeightAveraging, WeightAveraging

from datamodules.components.encoding.tokenizer_identity import TokenizerIdentity
from datamodules.training import TrainingDataModule
from dust2gold.core.errors import InputError
from dust2gold.core.files import recover, write_directory_atomically
from dust2gold.core.text import say
from lightning_modules.components.adapters.manifest import add_facts, read_manifest
from lightning_modules.fully_sharded import gathered
from lightning_modules.trainable import TrainableModule

_OTHER_WEIGHTS = (ModelPruning, StochasticWeightAveraging, WeightAveraging)
"""Callbacks that change the whole module, or a copy of it, base included; EMAWeightAveraging is one."""


class AdapterWriter(L.Callback):
    """Writes `<root>/adapter` whenever the monitored score improves, and `<root>/adapter-last` at the end.

    `<root>` is the Trainer's `default_root_dir`. Without validation `adapter` is written at the end too. The module
    says how, by its method `write_adapter(directory)`; the manifest then says with which tokenizer and prompt it was
    trained. The student and the adapters that the module reads must have been trained with those of its DataModule.

    Args:
        monitor: Logged metric that decides which adapter is best; None: `adapter` is the last, too.
        mode: `min` or `max`.
    """

    def __init__(self, monitor: str | None = "val/loss", mode: Literal["min", "max"] = "min") -> None:
        self.monitor = monitor
        self.mode = mode
        self.best: float | None = None
        self._encoding: dict[str, Any] = {}
        self._score: float | None = None  # of the last validation
        self._step: int | None = None  # the last, once training has ended

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses callbacks that train other weights, another tokenizer or prompt, tokens without an embedding."""
        if found := [callback for callback in trainer.callbacks if isinstance(callback, _OTHER_WEIGHTS)]:  # type: ignore[attr-defined]
            problem = (
                f"{type(found[0]).__name__} changes a copy of the whole student, and the adapter would not have it"
            )
            remedy = "leave it out; --model.schedule linear or cosine brings the learning rate to 0 at the end"
            raise InputError(problem, field="trainer.callbacks", remedy=remedy)
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, TrainingDataModule):
            self._encoding = data.encoding
            if isinstance(pl_module, TrainableModule):
                check_trained_alike(pl_module, data)
                if (student := getattr(pl_module, "student", None)) is not None:
                    data.check_ids(student)

    def state_dict(self) -> dict[str, Any]:
        """The best score so far, so that a resumed run does not overwrite a better adapter."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` saved."""
        self.best = state_dict["best"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restores the best adapter if a process was killed while replacing it."""
        if trainer.is_global_zero and Path(trainer.default_root_dir).is_dir():
            recover(Path(trainer.default_root_dir) / "adapter")
        self._score, self._step = None, None
        validates = trainer.enable_validation and (trainer.val_dataloaders is None or sum(trainer.num_val_batches) > 0)
        for callback in [] if validates else trainer.callbacks:  # type: ignore[attr-defined]
            metric = getattr(callback, "monitor", None)
            if callback is not self and str(metric).startswith("val/"):
                problem = f"{type(callback).__name__} waits for {metric}, and nothing is validated"
                remedy = "give --data.validation FILES or a --data.validation_fraction, or let it monitor train/loss"
                raise InputError(problem, field="trainer.callbacks", remedy=remedy)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the adapter if its score is the best so far."""
        score = None if self.monitor is None else trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or trainer.state.fn != "fit" or score is None or not score.isfinite():
            return
        value = float(score)
        better = self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        self._score = value
        if better:
            self.best = value
            self._write(trainer, pl_module, "adapter")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the last adapter, also as `adapter` where no score said which is best."""
        self._write(trainer, pl_module, "adapter-last")
        there = (Path(trainer.default_root_dir) / "adapter").is_dir()
        found = trainer.strategy.broadcast(there)  # rank 0 writes; others may not see its files
        if self.monitor is None or self.best is None or not found:
            self._write(trainer, pl_module, "adapter")
        self._step = trainer.global_step

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Says where the adapter is and how good it got, or that there was nothing to train."""
        path = Path(trainer.default_root_dir) / "adapter"
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self._step is None:
            held = f"the adapter of before is in {path}" if path.is_dir() else "no adapter is written"
            text = f"nothing was trained: max_epochs, max_steps or limit_train_batches leave no step; {held}"
        elif self.monitor is None or self.best is None:
            text = f"adapter: {path} (of the last step, {self._step:,}; without validation nobody knows how good it is)"
        else:
            text = f"adapter: {path} ({self.monitor} {self.best:.4f}, the best)"
            if self._score is not None:
                text += f"; {path}-last: step {self._step:,} ({self._score:.4f})"
        say(text, sys.stderr)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str) -> None:
        with gathered(pl_module):  # which takes all processes
            if trainer.is_global_zero:
                path = Path(trainer.default_root_dir) / name
                with write_directory_atomically(path) as directory:
                    pl_module.write_adapter(directory)  # type: ignore[operator]  # every trainable stage has it
                    add_facts(directory, self._encoding)


def check_trained_alike(module: TrainableModule, data: TrainingDataModule) -> None:
    """Refuses a student and adapters of a module that another tokenizer or prompt than its data's was used to train."""
    student = getattr(module, "student", None)
    own = None if student in (None, data.tokenizer_name) else TokenizerIdentity.of_student(student)
    if own is not None:
        data.tokenizer_identity.check(own.to_json(), "the student")
    for path in (getattr(module, name) for name in module.adapters_read):
        if path is not None and (directory := Path(path)).is_dir():  # the module says what else is wrong
            data.check_encoding(read_manifest(directory), "the adapter", directory)
