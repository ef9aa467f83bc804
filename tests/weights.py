"""Compares runs: the tensors of their adapter directories, and their samples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from datamodules.components.records.records import Rationale, read_rationales


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


def check_same_but_for_rounding(one: Path, other: Path, within: float = 1e-4) -> list[Rationale]:
    """Batched with other questions, matrix products round differently; returns the records."""
    expected, found = list(read_rationales(one)), list(read_rationales(other))
    inexact: dict[str, Any] = {"logprob": None, "score": None}
    assert [replace(record, **inexact) for record in found] == [replace(record, **inexact) for record in expected]
    for name in inexact:
        wanted = [getattr(record, name) for record in expected]
        assert [getattr(record, name) for record in found] == pytest.approx(wanted, abs=within)
    return expected
