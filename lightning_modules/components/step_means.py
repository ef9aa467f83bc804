"""What an optimizer step did, over all its accumulated batches and all ranks, in one exchange of a few numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class StepMeans:
    """Weighted means of named scalars over the batches of an optimizer step."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
        """Adds a batch; the same names on every rank.

        Args:
            values: Scalars.
            weights: What each counts for.
        """
        for name, value in values.items():
            weighted = torch.stack([value.detach().double(), value.new_ones((), dtype=torch.float64)]) * weights[name]
            self._sums[name] = self._sums[name] + weighted if name in self._sums else weighted

    def take(self, summed: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The means by name, NaN where nothing counted; begins the next step.

        Args:
            summed: Sums a tensor over all ranks.
        """
        totals = summed(torch.stack(list(self._sums.values())))
        means = dict(zip(self._sums, totals[:, 0] / totals[:, 1], strict=True))
        self._sums = {}
        return means
