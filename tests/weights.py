"""What a run has trained: the tensors of its adapter directories."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file


def weights(root: Path) -> dict[str, torch.Tensor]:
    """All tensors of `adapter` and `adapter-last`."""
    files = sorted(file for kind in ("adapter", "adapter-last") for file in (root / kind).rglob("*.safetensors"))
    return {f"{file.relative_to(root)}:{name}": value for file in files for name, value in load_file(file).items()}


def check_same(one: Path, other: Path) -> None:
    """Two runs have trained the same, to the last bit."""
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    assert len(expected) > 1
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def distance(one: Path, other: Path) -> float:
    """The largest difference of two runs' weights."""
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    return max(float((expected[name] - found[name]).abs().max()) for name in expected)
