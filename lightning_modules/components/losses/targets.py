"""The targets of a batch, and sums and means over them.

A target is a token that something must predict; padding and (by default) the prompt hold none. `find_targets` finds the
N targets of a batch once, an output head gives log P(target) [N] (`output_head.py`), and a loss sums up. The sum is not
divided by the micro-batch's own count where the batch knows the count of the optimizer step, see `Denominators`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dust2gold.core.errors import InputError

IGNORE = -100
"""Label of a position without a target (padding, prompt), as in Hugging Face."""


class Denominators(NamedTuple):
    """What sums over a (micro-)batch are divided by, to give means over the whole optimizer step; never 0.

    Lightning averages the loss over accumulated micro-batches and DDP the gradients over ranks. With the step's counts
    divided by (micro-batches × ranks), the step's gradient is that of one big batch, however it was cut.
    """

    tokens: float  # target tokens
    samples: float


class Targets(NamedTuple):
    """The N targets of a batch of S samples."""

    positions: Tensor  # [N] int64, b·T + t where position t of row b of [B, T] predicts a target at t + 1
    tokens: Tensor  # [N] int64, the target tokens
    sample: Tensor  # [N] int64, the number of each target's sample within the batch
    samples: int  # S, how many samples the batch holds: B, or more in packed rows
    positive: Tensor | None  # [S] bool, each sample's verdict; None if the batch has none
    all: Denominators  # of sums over all samples; infinite in a padding batch (`is_padding`)
    positives: Denominators  # of sums over the positive samples
    negatives: Denominators  # of sums over the others


def find_targets(batch: dict[str, Any]) -> Targets:
    """Finds the targets of a batch; where it has `targets`, `ids` and `step`, without waiting for a GPU.

    Reads `labels` [B, T] (unshifted; IGNORE where there is no target) and, where the batch has them, `targets` [N] (the
    positions that predict them, counted over all rows; else they are looked for here), `segments` [B, T]
    (packed rows: the number of each token's sample, −1 at padding), `positive` [S], `ids`, and `step`: for "all",
    "positive" and "negative" the (tokens, samples) to divide by, see `Denominators`.
    """
    labels, segments, positive = batch["labels"], batch.get("segments"), batch.get("positive")  # [B, T]
    positions = batch.get("targets")  # [N]
    if positions is None:
        positions = nn.functional.pad(labels[:, 1:] != IGNORE, (0, 1)).flatten().nonzero()[:, 0]
    if segments is None:
        sample, samples = positions // labels.shape[1], len(labels)  # [N], S = B
    else:
        sample = segments.flatten()[positions + 1]  # [N]
        samples = len(batch["ids"]) if "ids" in batch else int(segments.max()) + 1
    counts = batch.get("step") or _own_counts(sample, samples, positive)
    denominators = (Denominators(*(float(n) or 1.0 for n in counts[k])) for k in ("all", "positive", "negative"))
    return Targets(positions, labels.flatten()[positions + 1], sample, samples, positive, *denominators)


def _own_counts(sample: Tensor, samples: int, positive: Tensor | None) -> dict[str, tuple[int, int]]:
    tokens = len(sample)
    if positive is None:
        return {"all": (tokens, samples), "positive": (0, 0), "negative": (0, 0)}
    right = int(positive[sample].sum()), int(positive.sum())
    return {"all": (tokens, samples), "positive": right, "negative": (tokens - right[0], samples - right[1])}


def prompt_lengths(batch: dict[str, Any]) -> Tensor:
    """Tokens before each row's first target [B], for losses that need a rationale apart from its prompt.

    An InputError if rows hold several samples, or the prompt is a target too.
    """
    labels: Tensor = batch["labels"]  # [B, T]
    for field, given in (("packing", "segments" in batch), ("loss_on_prompt", bool((labels[:, 0] != IGNORE).any()))):
        if given:
            problem = "this stage takes each rationale apart from its prompt"
            raise InputError(problem, field=f"data.{field}", remedy="leave it out")
    return (labels != IGNORE).int().argmax(1)


def is_padding(batch: dict[str, Any]) -> bool:
    """Whether a batch repeats rows of another one only so that all ranks have equally many; nothing of it counts."""
    return "step" in batch and math.isinf(batch["step"]["all"][1])


def at_targets(values: Tensor, targets: Targets) -> Tensor:
    """Selects from `values` [B, T, ...], e.g. hidden states, the positions that predict a target: [N, ...]."""
    return values.flatten(0, 1).index_select(0, targets.positions)


def sample_sums(values: Tensor, targets: Targets) -> Tensor:
    """Sum of `values` [N] over the targets of each sample: [S]; 0 for a sample without targets."""
    return values.new_zeros(targets.samples).index_add(0, targets.sample, values)


def sample_means(values: Tensor, targets: Targets) -> Tensor:
    """Mean of `values` [N] over the targets of each sample: [S]; 0 for a sample without targets."""
    return sample_sums(values, targets) / sample_sums(torch.ones_like(values), targets).clamp_min(1)  # [S]


def verdicts(targets: Targets) -> Tensor:
    """Which samples are right, [S] bool; a ValueError if the batch does not have verdicts."""
    if targets.positive is None:
        raise ValueError("the batch has no verdicts: it needs the field 'positive'")
    return targets.positive


def on_right(targets: Targets) -> Tensor:
    """Which targets belong to right rationales, [N] bool; raises as `verdicts`."""
    return verdicts(targets)[targets.sample]
