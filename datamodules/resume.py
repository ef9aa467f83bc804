"""A training order that goes on where a checkpoint stopped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import lightning as L
import torch
from torch.utils.data import DataLoader


class Resumable(Protocol):
    """A batch sampler that can begin in the middle of an epoch."""

    def resume(self, batches: int) -> None:
        """Goes on after `batches` batches of this rank, counted over all epochs."""
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

    def state_dict(self) -> dict[str, Any]:
        """The number of training batches before the next one, counted as if all epochs so far were whole."""
        if self.trainer is None or self.trainer.train_dataloader is None:
            return {"batches": self._trained_batches}
        loop = self.trainer.fit_loop
        epoch = loop.epoch_progress.current.ready - 1
        batch = loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        if batch >= loop.max_batches:  # an epoch may be shorter than the loader (trainer.limit_train_batches)
            epoch, batch = epoch + 1, 0
        return {"batches": epoch * len(self.trainer.train_dataloader) + batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` saved; comes before the training loader is made."""
        self._trained_batches = int(state_dict["batches"])

    def resumed(self, sampler: Sampler) -> Sampler:
        """Sends the training batches' sampler to where the checkpoint stopped."""
        sampler.resume(self._trained_batches)
        return sampler

    def loader(self, rows: Any, sampler: Iterable[list[Any]], collate: Any) -> DataLoader[Any]:
        """A loader of a list (or any map-style data set) by a batch sampler that shards by itself."""
        return DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed),  # its own: the global one belongs to dropout
        )

    def place(self) -> tuple[int, int]:
        """(rank, number of processes); (0, 1) outside a Trainer."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
