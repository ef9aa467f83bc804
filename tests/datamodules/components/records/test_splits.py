"""The validation split: a share of the questions that other questions do not change."""

from __future__ import annotations

import pytest

from datamodules.components.records.splits import held_out


def test_held_out_share() -> None:
    names = [f"math-train-{i:05d}" for i in range(4000)]
    assert sum(held_out(name, 0.1) for name in names) == pytest.approx(400, abs=60)
    assert not any(held_out(name, 0.0) for name in names)
    assert all(held_out(name, 1.0) for name in names)
    assert {n for n in names if held_out(n, 0.05)} < {n for n in names if held_out(n, 0.1)}
