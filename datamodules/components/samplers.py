"""Which rows go into which batch: similar lengths together, equal work per rank, exact after a resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from foundation.errors import InputError


class BucketBatchSampler:
    """Batches of rows of similar length, in an order that depends on (seed, epoch) alone.

    The rows are shuffled, cut into mega-batches of `mega` batches, sorted by length within each, cut into batches, and
    the batches shuffled again. Rank r of w takes every w-th batch from r on; the first batches are repeated where the
    number does not divide, so that all ranks do the same number of steps.

    Args:
        lengths: Length of each row, in tokens.
        batch_size: Rows a batch.
        seed: Of the order.
        rank: This process.
        world: Number of processes.
        shuffle: False sorts everything by length once (evaluation); then nothing is repeated and the ranks' numbers of
            batches may differ by one.
        mega: Batches sorted together.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        mega: int = 50,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"must be at least 1, found {batch_size}", field="data.batch_size")
        self.lengths = torch.tensor(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.shuffle = shuffle
        self.mega = mega
        self.epoch = 0
        self._resume_epoch = 0
        self._skip = 0

    @property
    def sampler(self) -> BucketBatchSampler:
        """Itself: Lightning looks for `set_epoch` on a batch sampler's `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass."""
        self.epoch = epoch

    def resume(self, batches: int) -> None:
        """Goes on after `batches` batches of this rank, counted over all epochs."""
        self._resume_epoch, self._skip = divmod(batches, len(self))
        self.epoch = self._resume_epoch

    def __len__(self) -> int:
        total = -(-len(self.lengths) // self.batch_size)
        return -(-total // self.world) if self.shuffle else len(range(self.rank, total, self.world))

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        mine = batches[self.rank :: self.world]
        yield from mine[self._skip if self.epoch == self._resume_epoch else 0 :]

    def _batches(self) -> list[list[int]]:
        if not len(self.lengths):
            return []
        if not self.shuffle:
            order = self.lengths.argsort(stable=True, descending=True)
            return [batch.tolist() for batch in order.split(self.batch_size)]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        batches = [
            batch.tolist()
            for chunk in order.split(self.batch_size * self.mega)
            for batch in chunk[self.lengths[chunk].argsort(stable=True)].split(self.batch_size)
        ]
        batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        missing = len(self) * self.world - len(batches)
        return batches + [batches[i % len(batches)] for i in range(missing)]
