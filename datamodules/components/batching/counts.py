"""How many targets an optimizer step trains on, over all its ranks and accumulated batches.

A mean over a batch's own targets weighs a target by how full its batch happens to be: with accumulated gradients,
several processes or packing the same rows would give another loss. Divided by the counts of the whole step they do not:

    step = sum over ranks and accumulated batches of (sum over the batch's targets) / (targets of the step)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Step = dict[str, tuple[float, float]]
"""`{"all": (tokens, samples), "positive": (…), "negative": (…)}`, what a batch's sums are divided by."""

_GROUPS = ("all", "positive", "negative")

NO_TARGETS: Step = dict.fromkeys(_GROUPS, (math.inf, math.inf))
"""Of a batch that only fills a rank's turn, with rows that others have: divided by these its sums, and their gradients,
are 0."""


def count_targets(tokens: Sequence[int] | Tensor, positive: Sequence[bool] | Tensor) -> Tensor:
    """Counts per sample, to be summed over whatever a batch takes together.

    Args:
        tokens: Target tokens of each of n samples [n].
        positive: Their verdicts [n].

    Returns:
        [n, 3, 2] float64: over all, the right and the wrong samples; target tokens and samples.
    """
    verdict = torch.as_tensor(positive, dtype=torch.bool).reshape(-1)
    groups = torch.stack([torch.ones_like(verdict), verdict, ~verdict], dim=1).double()
    counted = torch.as_tensor(tokens, dtype=torch.float64).reshape(-1)
    return torch.stack([groups * counted[:, None], groups], dim=-1)


def step_counts(counts: Tensor, batches: int) -> Step:
    """What each batch of an optimizer step divides its sums by.

    Args:
        counts: [n, 3, 2] of all n samples of the step, as `count_targets` made them.
        batches: Ranks times accumulated batches. Lightning divides each batch's loss by the number of accumulated
            batches (in the shorter last window of an epoch too), and DDP averages gradients over the ranks: the step's
            count over `batches` as the divisor of a batch's sum undoes both.
    """
    totals = (counts.sum(0) / batches).tolist()
    return {name: (tokens, samples) for name, (tokens, samples) in zip(_GROUPS, totals, strict=True)}
