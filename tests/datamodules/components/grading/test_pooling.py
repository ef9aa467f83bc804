"""Classes of answers."""

from __future__ import annotations

from datamodules.components.grading.pooling import pool


def test_pool_numbers_values_in_their_order() -> None:
    assert pool(["b", None, "A", " ", "B", "c"], str.lower) == [0, -1, 1, -1, 0, 2]
