"""Batches, log-probabilities and hidden states for the tests of losses."""

import math
from typing import Any

import torch
from torch import Tensor

from lightning_modules.components.losses.targets import IGNORE


def make_batch(lengths: list[int], verdicts: list[bool]) -> dict[str, Any]:
    """Rows with so many targets each, after one token of prompt, padded."""
    labels = torch.full((len(lengths), max(lengths) + 1), IGNORE)
    for row, length in enumerate(lengths):
        labels[row, 1 : length + 1] = 5
    return {"labels": labels, "positive": torch.tensor(verdicts)}


def random_logprobs(count: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -torch.rand(count, generator=generator, dtype=torch.float64) * scale


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def by_sample(logprobs: Tensor, lengths: list[int]) -> list[list[float]]:
    return [part.tolist() for part in logprobs.split(lengths)]


def average(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def gradient_of(value: Tensor, leaf: Tensor) -> Tensor:
    """Of the sum of a loss or of numbers that are weighted differently; checked to be finite."""
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view_as(value)
    (gradient,) = torch.autograd.grad(value, leaf, weights, retain_graph=True)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    return gradient
