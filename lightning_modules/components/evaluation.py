"""Evaluation mode for a block of code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Runs the block in evaluation mode and gives every submodule its own mode back, also on an error."""
    training = [each for each in module.modules() if each.training]
    for each in training:  # past Module.__setattr__ and `eval`'s recursion: they take as long as a small model's pass
        object.__setattr__(each, "training", False)
    try:
        yield
    finally:
        for each in training:
            object.__setattr__(each, "training", True)
