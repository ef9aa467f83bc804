"""What `fit` resumes from: periodic checkpoints, one more when a scheduler ends the job, and a record of the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.checkpoint_files import LAST, checkpoint_directory, is_finished, mark_finished, use_checked_checkpoints
from dust2gold.core.errors import InputError
from dust2gold.core.files import free_aside, sha256_of
from dust2gold.core.provenance import Provenance
from dust2gold.core.signals import Preempted, SignalListener
from lightning_modules.components.accuracy import gather_objects

PROVENANCE_KEY = "provenance"
"""Key in a checkpoint of what it was trained with: the facts of a `Provenance`."""


class RunCheckpoint(ModelCheckpoint):
    """Saves `<root>/checkpoints/last.ckpt` every few optimizer steps, for `fit` to resume from.

    It holds the trained adapter, the optimizer and the loops' state, never the base. The one before stays, as
    `previous.ckpt`. On SIGTERM or SIGUSR1 it saves at the end of the optimizer step (of the validation, if one is under
    way) and ends the process with 128 + the signal's number.

    Args:
        every_n_train_steps: Optimizer steps between checkpoints.
        save_top_k: 0 keeps the last alone, 1 a copy under its step's name, -1 all of them.

    Attributes:
        made: What the run is trained with, kept in its checkpoints; see `PROVENANCE_KEY`.
    """

    def __init__(self, every_n_train_steps: int = 200, save_top_k: int = 0) -> None:
        super().__init__(
            every_n_train_steps=every_n_train_steps,
            save_top_k=save_top_k,
            save_last=True,
            enable_version_counter=False,  # a run that starts over replaces last.ckpt: last-v1.ckpt is never read
        )
        self.made: Provenance | None = None
        self._waiting = False
        self._signals = SignalListener()
        self._step = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Chooses the directory under the Trainer's `default_root_dir`, and how files are written there."""
        self.dirpath = str(checkpoint_directory(trainer))
        use_checked_checkpoints(trainer)
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses processes that resume from different checkpoints."""
        super().on_fit_start(trainer, pl_module)
        _check_shared(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restores the signal handlers."""
        self._signals.stop()
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restores the signal handlers."""
        self._signals.stop()
        super().on_exception(trainer, pl_module, exception)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what Lightning saved, but no path that leaves the directory: it removes what it replaces."""
        own = {name: value for name, value in state_dict.items() if not name.endswith("_path") or self._is_own(value)}
        kept = {path: score for path, score in state_dict.get("best_k_models", {}).items() if self._is_own(path)}
        super().load_state_dict({"best_model_path": "", "best_model_score": None, **own, "best_k_models": kept})

    def _is_own(self, path: Any) -> bool:
        return self.dirpath is not None and Path(path).resolve().parent == Path(self.dirpath).resolve()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds what the run is trained with."""
        if self.made is not None:
            checkpoint[PROVENANCE_KEY] = dict(self.made.facts)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listens for signals."""
        self._signals.listen()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listens for signals, and sets aside a checkpoint that this run does not resume but would overwrite."""
        super().on_train_start(trainer, pl_module)
        self._signals.listen()
        # A resumed run begins between two optimizer steps. Saved again within the next one, it would lose accumulated
        # gradients.
        self._step = self._last_global_step_saved = trainer.global_step
        directory = checkpoint_directory(trainer)
        last = directory / LAST
        resumed = trainer.ckpt_path is not None and last.is_file() and last.samefile(trainer.ckpt_path)
        if trainer.is_global_zero and last.is_file() and not resumed and not is_finished(directory):
            print(f"kept the checkpoint of another run: {last.rename(free_aside(last))}", file=sys.stderr)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is due; where validation comes next, after it: a resumed run would leave the validation out."""
        self._waiting = _validation_comes(trainer)
        if not self._waiting:
            self._save(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves what waited for the validation."""
        if self._waiting:
            self._waiting = False
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves and records the end; the adapters are written by now, for checkpoint callbacks are the last."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        if trainer.is_global_zero and (checkpoint_directory(trainer) / LAST).is_file():  # fast_dev_run saves none
            mark_finished(checkpoint_directory(trainer))

    def _save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves when it is due, and after a signal, which ends the process with `Preempted`."""
        super().on_train_batch_end(trainer, pl_module, None, None, 0)
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        signal_number = self._signal(trainer) if stepped else None
        if signal_number is None:
            return
        if self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        stop = Preempted(signal_number)
        if trainer.is_global_zero:
            message = f"{stop.name}: saved at step {trainer.global_step}; the same command goes on from here"
            print(message, file=sys.stderr, flush=True)
        raise stop

    def _signal(self, trainer: L.Trainer) -> int | None:
        """The signal that any process received; all of them stop at the same step."""
        received = self._signals.received or 0
        if trainer.world_size > 1:
            mine = trainer.lightning_module.all_gather(torch.tensor(received))
            received = int(mine.max())  # type: ignore[union-attr]  # one number a process
        return received or None


def _check_shared(trainer: L.Trainer) -> None:
    """Makes sure that all processes found the same checkpoint: rank 0 writes it, and another machine may not see it."""
    if trainer.world_size == 1:
        return
    path = trainer.ckpt_path
    found = gather_objects(None if path is None else sha256_of(Path(path)))
    if len(set(found)) > 1:
        ranks = ", ".join(str(rank) for rank, each in enumerate(found) if each != found[0])
        raise InputError(
            f"ranks {ranks} see another checkpoint than rank 0, or none",
            file=checkpoint_directory(trainer),
            remedy="put trainer.default_root_dir on a file system that all machines share, "
            "or copy checkpoints/ from rank 0's machine to the others",
        )


def _validation_comes(trainer: L.Trainer) -> bool:
    """Whether validation follows the batch that has just been trained on; without validation data it never does."""
    fetcher, unknown = trainer.fit_loop._data_fetcher, trainer.val_dataloaders is None
    due = fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
    return due and (unknown or sum(trainer.num_val_batches) > 0)
