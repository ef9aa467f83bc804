"""A training order that goes on where a checkpoint stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.components.batching.counts import Step
from datamodules.components.batching.groups import GroupBatchSampler, Grouping, count_groups
from datamodules.components.batching.plan import Batching
from datamodules.components.batching.progress import recount
from datamodules.components.batching.sampler import Leg, Place, Planned, TrainingSampler, ValidationSampler
from dust2gold.core.errors import InputError

S = TypeVar("S", bound=TrainingSampler)


class ResumableDataModule(L.LightningDataModule):
    """Saves where in the epoch training stands, and sends its training sampler on from there.

    Lightning restores its own counters but reads a fresh loader from its first batch; the sampler's offset is what
    makes a resumed epoch see the batches it has not seen yet. A run may go on with another number of processes or of
    accumulated batches: see `TrainingSampler`; Lightning's counters are then made to fit.

    Args:
        seed: Of the order of the batches.
        num_workers: Processes that collate batches.
    """

    def __init__(self, seed: int, num_workers: int) -> None:
        super().__init__()
        self.seed = seed
        self.num_workers = num_workers
        self._sampler: TrainingSampler | None = None
        self._state: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Where training stands (`Place`), the batches planned an epoch, and (ranks, accumulated batches)."""
        if self.trainer is None or self._sampler is None or self.trainer.train_dataloader is None:
            return self._state
        loop, sampler = self.trainer.fit_loop, self._sampler
        epoch = loop.epoch_progress.current.ready - 1
        batch = loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        over = batch >= loop.max_batches  # an epoch may be shorter than the loader (trainer.limit_train_batches)
        place = Place(epoch + 1) if over else sampler.place(epoch, batch)
        return {
            "epoch": place.epoch,
            "legs": [list(leg) for leg in place.legs],
            "planned": sampler.planned,
            "split": [sampler.world, sampler.accumulate],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` saved.

        Raises:
            InputError: If the checkpoint is of an earlier version, or its epochs are other ones.
        """
        if "legs" not in state_dict:
            raise InputError(
                "the checkpoint does not say where in the data it stands", remedy="start anew with --ckpt_path none"
            )
        self._state = state_dict
        if self.trainer is not None and state_dict["split"] != [self.trainer.world_size, self._window()[0]]:
            self._split_anew()
        elif self._sampler is not None:  # some strategies make the loader before they read the checkpoint
            self.resumed(self._sampler)
        fetcher = None if self.trainer is None else self.trainer.fit_loop._data_fetcher
        if fetcher is not None:
            iter(fetcher)

    def _split_anew(self) -> None:
        """Makes the counters in the checkpoint those of a run that had this split all along."""
        assert self.trainer is not None
        if self._sampler is None:
            self.train_dataloader()
        assert self._sampler is not None
        sampler = self.resumed(self._sampler)
        if sampler.limit < len(sampler):
            raise InputError(
                "an epoch cut short goes on with the number of processes and accumulated batches it began with alone",
                field="trainer.limit_train_batches",
            )
        checkpoint = self.trainer._checkpoint_connector._loaded_checkpoint
        recount(checkpoint, self._state["epoch"], sampler, by_epochs=self.trainer.max_steps == -1)
        if self.trainer.is_global_zero:
            print(_told(self._state["split"], [sampler.world, sampler.accumulate]), file=sys.stderr)

    def resumed(self, sampler: S) -> S:
        """Sends the training batches' sampler to where the checkpoint stopped.

        Raises:
            InputError: If its epochs are not those of the checkpoint: nobody can tell which rows are still to come.
        """
        self._sampler = sampler
        if not self._state:
            return sampler
        if self._state["planned"] != sampler.planned:
            raise InputError(
                f"the checkpoint was made with {self._state['planned']:,} batches an epoch, here are"
                f" {sampler.planned:,}",
                remedy="resume with the same training files, batch size and packing, or start anew without --ckpt_path",
            )
        sampler.resume(Place(self._state["epoch"], tuple(Leg(*leg) for leg in self._state["legs"])))
        return sampler

    def training_loader(
        self,
        rows: Any,
        lengths: Sequence[int] | Tensor,
        batching: Batching,
        counts: Tensor,
        collate: Callable[[Any], dict[str, Any]],
    ) -> DataLoader[Any]:
        """Training batches as planned, sharded, resumed, each with the `step` counts of its optimizer step.

        Args:
            rows: A list, or any map-style data set.
            lengths: Of each row, in tokens.
            batching: What makes a batch.
            counts: [n, 3, 2] of the rows, see `count_targets`; a row of several samples carries their sum.
            collate: Makes a batch of a list of rows.

        Raises:
            InputError: If a row is too long for a batch, or the number of accumulated batches changes during training.
        """
        sampler = TrainingSampler(lengths, batching, self.seed, *self.place(), counts, *self._window())
        return self.loader(Planned(rows), self.resumed(sampler), _WithStep(collate))

    def grouped_loader(
        self,
        grouping: Grouping[Any],
        batch_size: int,
        collate: Callable[[Any], dict[str, Any]],
        counts: Tensor | None = None,
    ) -> DataLoader[Any]:
        """Training batches of groups, drawn anew each epoch, sharded and resumed.

        Args:
            grouping: Draws the groups, and is the data set.
            batch_size: Groups a batch.
            collate: Makes a batch of a list of groups.
            counts: [n, 3, 2] of the candidates, see `count_targets`: batches then say the counts of their `step`.

        Raises:
            InputError: As `training_loader`.
        """
        sampler = GroupBatchSampler(grouping, batch_size, *self.place(), counts, *self._window())
        return self.loader(Planned(grouping), self.resumed(sampler), _WithStep(collate))

    def fixed_groups_loader(
        self, grouping: Grouping[Any], batch_size: int, collate: Callable[[Any], dict[str, Any]], counts: Tensor
    ) -> DataLoader[Any]:
        """Validation batches of groups, the first epoch's in every epoch, each once over all ranks; may be empty.

        Args:
            grouping: Draws the groups.
            batch_size: Groups a batch.
            collate: Makes a batch of a list of groups.
            counts: [n, 3, 2] of the candidates, see `count_targets`.
        """
        groups = grouping.draw(0)
        rows, lengths = [grouping[group] for group in groups], [grouping.length(group) for group in groups]
        return self.validation_loader(rows, lengths, batch_size, collate, count_groups(counts, groups))

    def validation_loader(
        self,
        rows: Sequence[Any],
        lengths: Sequence[int] | Tensor,
        batch_size: int,
        collate: Callable[[Any], dict[str, Any]],
        counts: Tensor,
    ) -> DataLoader[Any]:
        """Validation batches, each row once over all ranks, equally many a rank.

        Args:
            rows: What to validate on.
            lengths: Of each row, in tokens.
            batch_size: Rows a batch.
            collate: Makes a batch of a list of rows.
            counts: [n, 3, 2] of the rows, see `count_targets`: batches say the counts of the whole validation.
        """
        limit = 1.0 if self.trainer is None else self.trainer.limit_val_batches
        sampler = ValidationSampler(lengths, batch_size, *self.place(), counts, limit)
        return self.loader(Planned(rows), sampler, _WithStep(collate))

    def loader(self, rows: Any, sampler: Iterable[Any], collate: Any) -> DataLoader[Any]:
        """A loader of a list (or any map-style data set) by a batch sampler that shards by itself.

        Batches for a GPU are pinned: copying one there does not wait for the step before.
        """
        return DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=self.trainer is not None and isinstance(self.trainer.accelerator, CUDAAccelerator),
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed),  # its own: the global one belongs to dropout
        )

    def _window(self) -> tuple[int, int | float]:
        """(accumulated batches, `limit_train_batches`) of the Trainer; (1, all) outside one."""
        if self.trainer is None:
            return 1, 1.0
        if any(isinstance(callback, GradientAccumulationScheduler) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise InputError(
                "GradientAccumulationScheduler changes the number of accumulated batches during training",
                field="trainer.callbacks",
                remedy="give a constant --trainer.accumulate_grad_batches",
            )
        return self.trainer.accumulate_grad_batches, self.trainer.limit_train_batches

    def place(self) -> tuple[int, int]:
        """(rank, number of processes); (0, 1) outside a Trainer."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def _told(old: Sequence[int], new: Sequence[int]) -> str:
    """What a changed split means for the order of the data."""
    (before, then), (here, now) = old, new
    return (
        f"the checkpoint was made by {before} process(es) accumulating {then} batch(es), here are {here} accumulating"
        f" {now}: "
        + (
            "the steps and their rows are the same"
            if before * then == here * now
            else "the epoch's other rows follow, each once, in steps of the new size"
        )
    )


class _WithStep:
    """Adds `step`, where it was counted, to a collated batch; a class, so that it can be sent to worker processes."""

    def __init__(self, collate: Callable[[Any], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, asked: tuple[list[Any], Step | None]) -> dict[str, Any]:
        rows, step = asked
        return self.collate(rows) if step is None else {**self.collate(rows), "step": step}
