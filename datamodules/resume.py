"""A training order that goes on where a checkpoint stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.components.batching import Batching
from datamodules.components.counts import Step
from datamodules.components.grouping import GroupBatchSampler, Grouping
from datamodules.components.samplers import EvaluationSampler, Planned, TrainingSampler
from foundation.errors import InputError


class Resumable(Protocol):
    """A batch sampler that can begin in the middle of an epoch."""

    def resume(self, batches: int) -> None:
        """Goes on after `batches` batches of this rank, counted over all epochs."""
        ...

    def __len__(self) -> int:
        """Batches of an epoch."""
        ...


Sampler = TypeVar("Sampler", bound=Resumable)


class ResumableDataModule(L.LightningDataModule):
    """Saves how many batches were trained on, and sends its training sampler on after them.

    Lightning restores its own counters but reads a fresh loader from its first batch; the sampler's offset is what
    makes a resumed epoch see the batches it has not seen yet.

    Args:
        seed: Of the order of the batches.
        num_workers: Processes that collate batches.
    """

    def __init__(self, seed: int, num_workers: int) -> None:
        super().__init__()
        self.seed = seed
        self.num_workers = num_workers
        self._trained_batches = 0
        self._epoch_batches: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """The number of training batches before the next one, as if all epochs so far were whole, and of an epoch."""
        if self.trainer is None or self.trainer.train_dataloader is None:
            return {"batches": self._trained_batches, "epoch_batches": self._epoch_batches}
        loop = self.trainer.fit_loop
        epoch = loop.epoch_progress.current.ready - 1
        batch = loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        if batch >= loop.max_batches:  # an epoch may be shorter than the loader (trainer.limit_train_batches)
            epoch, batch = epoch + 1, 0
        whole = len(self.trainer.train_dataloader)
        return {"batches": epoch * whole + batch, "epoch_batches": whole}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` saved; comes before the training loader is made."""
        self._trained_batches = int(state_dict["batches"])
        self._epoch_batches = state_dict.get("epoch_batches")

    def resumed(self, sampler: Sampler) -> Sampler:
        """Sends the training batches' sampler to where the checkpoint stopped.

        Raises:
            InputError: If its epochs are not those of the checkpoint: nobody can tell which rows are still to come.
        """
        if self._epoch_batches is not None and self._epoch_batches != len(sampler):
            raise InputError(
                f"the checkpoint was made with {self._epoch_batches:,} batches an epoch, here are {len(sampler):,}",
                remedy="resume with the same training files, batch size, packing and number of devices,"
                " or start anew without --ckpt_path",
            )
        sampler.resume(self._trained_batches)
        return sampler

    def training_loader(
        self,
        rows: Any,
        lengths: Sequence[int],
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
        self, grouping: Grouping[Any], batch_size: int, collate: Callable[[Any], dict[str, Any]]
    ) -> DataLoader[Any]:
        """Validation batches of groups, the first epoch's in every epoch, each once over all ranks; may be empty.

        Args:
            grouping: Draws the groups.
            batch_size: Groups a batch.
            collate: Makes a batch of a list of groups.
        """
        groups = grouping.draw(0)
        sampler = EvaluationSampler([grouping.length(group) for group in groups], batch_size, *self.place())
        return self.loader([grouping[group] for group in groups], sampler, collate)

    def loader(self, rows: Any, sampler: Iterable[Any], collate: Any) -> DataLoader[Any]:
        """A loader of a list (or any map-style data set) by a batch sampler that shards by itself."""
        return DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
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
                field="trainer.callbacks", remedy="give a constant --trainer.accumulate_grad_batches",
            )  # fmt: skip
        return self.trainer.accumulate_grad_batches, self.trainer.limit_train_batches

    def place(self) -> tuple[int, int]:
        """(rank, number of processes); (0, 1) outside a Trainer."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


class _WithStep:
    """Adds `step`, where it was counted, to a collated batch; a class, so that it can be sent to worker processes."""

    def __init__(self, collate: Callable[[Any], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, asked: tuple[list[Any], Step | None]) -> dict[str, Any]:
        rows, step = asked
        return self.collate(rows) if step is None else {**self.collate(rows), "step": step}
