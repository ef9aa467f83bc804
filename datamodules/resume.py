"""A training order that goes on where a checkpoint stopped."""

from __future__ import annotations

from typing import Any

import lightning as L

from datamodules.components.samplers import BucketBatchSampler


class ResumableDataModule(L.LightningDataModule):
    """Saves how many batches were trained on, and hands out samplers that go on after them.

    Lightning restores its own counters but reads a fresh loader from its first batch; the sampler's offset is what
    makes a resumed epoch see the batches it has not seen yet.
    """

    def __init__(self) -> None:
        super().__init__()
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

    def training_batches(self, lengths: list[int], batch_size: int, seed: int) -> BucketBatchSampler:
        """This rank's training batches, from where the checkpoint stopped on."""
        rank, world = self.place()
        sampler = BucketBatchSampler(lengths, batch_size, seed, rank, world)
        sampler.resume(self._trained_batches)
        return sampler

    def place(self) -> tuple[int, int]:
        """(rank, number of processes); (0, 1) outside a Trainer."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
