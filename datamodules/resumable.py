"""A training order that goes on where a checkpoint stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.components.batching.collate import target_positions
from datamodules.components.batching.groups import Group
from datamodules.components.batching.sampler import Batch, BatchDataset, TrainingSampler, ValidationSampler
from datamodules.components.table import Example, Examples
from dust2gold.core.errors import InputError

Collate = Callable[[list[Example], Batch], dict[str, Any]]

_REFUSED: dict[type[L.Callback], tuple[str, str]] = {
    GradientAccumulationScheduler: (
        "changes the number of accumulated batches during training",
        "give a constant --trainer.accumulate_grad_batches",
    ),
    BatchSizeFinder: (
        "changes the number of batches after the learning-rate schedule was made for it",
        "give --data.tokens_per_batch: as many tokens a batch as fit, whatever their rows",
    ),
}
"""Callbacks that would change what an optimizer step is made of, why not, and what to do instead."""


class ResumableDataModule(L.LightningDataModule):
    """Saves where in the epoch training stands, and sends its training sampler on from there.

    Lightning restores its own counters but reads a fresh loader from its first batch; the sampler's offset is what
    makes a resumed epoch see the batches it has not seen yet. A run goes on with as many batches an optimizer step
    (processes × accumulated batches) as it began with.
    """

    def __init__(self, seed: int, num_workers: int) -> None:
        super().__init__()
        self.seed = seed
        self.num_workers = num_workers
        self._sampler: TrainingSampler | None = None
        self._state: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches of a rank done in it, batches planned an epoch, and [processes, accumulated batches]."""
        if self.trainer is None or self._sampler is None or self.trainer.train_dataloader is None:
            return self._state
        loop, sampler = self.trainer.fit_loop, self._sampler
        epoch = max(0, loop.epoch_progress.current.ready - 1)  # LearningRateFinder saves before the first
        batch = loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        if batch >= loop.max_batches:  # an epoch may be shorter than the loader (trainer.limit_train_batches)
            epoch, batch = epoch + 1, 0
        split = [sampler.world, sampler.accumulate]
        return {"epoch": epoch, "batch": batch, "planned": sampler.planned, "split": split}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` saved.

        Raises:
            InputError: If the checkpoint does not say it, its optimizer steps are of another size, or its epochs are
                other ones.
        """
        if "batch" not in state_dict:
            problem = "the checkpoint does not say where in the data it stands"
            raise InputError(problem, remedy="start anew with --ckpt_path none")
        self._state = state_dict
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:  # the others read weights alone
            return
        finds = any(isinstance(callback, LearningRateFinder) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        if finds and (state_dict["epoch"] or state_dict["batch"]):  # its own checkpoint is of the start
            problem = "LearningRateFinder would train from the checkpoint's weights and lose its position"
            raise InputError(problem, field="trainer.callbacks", remedy="leave it out, or start anew: --ckpt_path none")
        self._reopen_epoch()
        split = [self.trainer.world_size, self._accumulated()]
        if state_dict["split"] != split:
            self._convert_position(state_dict["split"], split)
        if self._sampler is not None:  # some strategies make the loader before they read the checkpoint
            self.resumed(self._sampler)
        if (fetcher := self.trainer.fit_loop._data_fetcher) is not None:
            iter(fetcher)

    def _reopen_epoch(self) -> None:
        """Makes of a checkpoint of a run's end one that was saved after its last optimizer step.

        When training ends, in the middle of an epoch too, Lightning counts the epoch as done: a run that goes on would
        leave its other batches out. A step that the end cut short is begun anew, as its gradients are gone.
        """
        assert self.trainer is not None
        loops = self.trainer._checkpoint_connector._loaded_checkpoint["loops"]["fit_loop"]
        epoch, batch = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        if epoch["current"]["processed"] < epoch["current"]["ready"] or not epoch["current"]["ready"]:
            return
        for counters in (epoch["current"], epoch["total"]):
            counters["processed"] = counters["completed"] = counters["started"] - 1
        cut_short = self._state["batch"] % self._state["split"][1]
        self._state = {**self._state, "batch": self._state["batch"] - cut_short}
        for counters in (batch["current"], batch["total"]):
            for name in counters:
                counters[name] -= cut_short + (name == "completed")
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    def _convert_position(self, before: list[int], now: list[int]) -> None:
        """Makes the counts of batches, here and in Lightning's counters, those of a run that had this split all along.

        Args:
            before: [processes, accumulated batches] of the run that made the checkpoint.
            now: The same of this run.
        """
        assert self.trainer is not None
        per_step = before[0] * before[1]
        if per_step != now[0] * now[1]:
            raise InputError(
                f"the checkpoint was made by {before[0]} process(es) accumulating {before[1]} batch(es), {per_step} an"
                f" optimizer step; here are {now[0]} accumulating {now[1]}, {now[0] * now[1]} a step",
                field="trainer.accumulate_grad_batches",
                remedy=f"go on with processes × accumulated batches = {per_step}, or start anew with --ckpt_path none",
            )
        if self.trainer.limit_train_batches != 1.0:
            raise InputError(
                "an epoch cut short goes on with the number of processes and accumulated batches it began with alone",
                field="trainer.limit_train_batches",
            )

        def counted_now(batch: int) -> int:
            done = batch * before[0]  # of all ranks
            return (done - (done % per_step if done % now[0] else 0)) // now[0]

        self._state = {**self._state, "batch": counted_now(self._state["batch"]), "split": now}
        checkpoint = self.trainer._checkpoint_connector._loaded_checkpoint
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        shift = counted_now(progress["current"]["processed"]) - progress["current"]["processed"]
        for counters in (progress["current"], progress["total"]):
            for name in counters:
                counters[name] += shift

    def resumed(self, sampler: TrainingSampler) -> TrainingSampler:
        """Sends the training batches' sampler to where the checkpoint stopped.

        Raises:
            InputError: If its epochs are not those of the checkpoint: nobody can tell which rows are still to come.
        """
        self._sampler = sampler
        if not self._state:
            return sampler
        if self._state["planned"] != sampler.planned:
            problem = f"the checkpoint was made with {self._state['planned']:,} batches an epoch, here are"
            remedy = "resume with the same training files, batch size and packing, or start over without --ckpt_path"
            raise InputError(f"{problem} {sampler.planned:,}", remedy=remedy)
        sampler.resume(self._state["epoch"], self._state["batch"])
        return sampler

    def training_loader(self, examples: Examples, sampler: TrainingSampler, collate: Collate) -> DataLoader[Any]:
        """Training batches in a sampler's order, resumed, each with the `step` counts of its optimizer step."""
        return self.loader(BatchDataset(examples), self.resumed(sampler), self._completed(collate))

    def validation_loader(
        self,
        examples: Examples,
        lengths: Tensor,
        batch_size: int,
        collate: Collate,
        counts: Tensor,
        groups: Sequence[Group] | None = None,
    ) -> DataLoader[Any]:
        """Validation batches, each row once over all ranks, equally many a rank; see `ValidationSampler`."""
        limit = 1.0 if self.trainer is None else self.trainer.limit_val_batches
        sampler = ValidationSampler(lengths, batch_size, *self.rank_of_world(), counts, limit, groups)
        return self.loader(BatchDataset(examples), sampler, self._completed(collate))

    def _completed(self, collate: Collate) -> Callable[[tuple[list[Example], Batch]], dict[str, Any]]:
        """Adds `step` to a batch and, where the stage in the Trainer has a `batch_reader`, `teacher`."""
        stage: Any = None if self.trainer is None else self.trainer.lightning_module
        read = stage.batch_reader() if hasattr(stage, "batch_reader") else None
        return partial(_collate, collate, read)

    def loader(self, rows: Any, sampler: Iterable[Any], collate: Any) -> DataLoader[Any]:
        """A loader of a map-style data set by a batch sampler that shards by itself."""
        return DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            # Pinned, so that copying a batch to the GPU does not wait for the step before.
            pin_memory=self.trainer is not None and isinstance(self.trainer.accelerator, CUDAAccelerator),
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed),  # its own: the global one belongs to dropout
        )

    def sharding(self) -> dict[str, Any]:
        """What a `TrainingSampler` has to know of the Trainer; nothing outside one."""
        if self.trainer is None:
            return {}
        rank, world = self.rank_of_world()
        limit = self.trainer.limit_train_batches
        return {"rank": rank, "world": world, "accumulate": self._accumulated(), "limit": limit}

    def rank_of_world(self) -> tuple[int, int]:
        """(rank, number of processes); (0, 1) outside a Trainer."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _accumulated(self) -> int:
        assert self.trainer is not None
        for kind, (problem, remedy) in _REFUSED.items():
            if any(isinstance(callback, kind) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
                raise InputError(f"{kind.__name__} {problem}", field="trainer.callbacks", remedy=remedy)
        return self.trainer.accumulate_grad_batches


def _collate(
    collate: Collate, read: Callable[[dict[str, Any]], Any] | None, asked: tuple[list[Example], Batch]
) -> dict[str, Any]:
    examples, batch = asked
    made = collate(examples, batch) | ({} if batch.step is None else {"step": batch.step})
    if "labels" in made:  # found here, as a GPU would have to be waited for
        made["targets"] = target_positions(made["labels"])  # [N]
    return made if read is None else {**made, "teacher": read(made)}
