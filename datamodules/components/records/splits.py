"""Which questions are held out for validation."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALL = 2**64


def draw(question_id: str) -> int:
    """A question's place in [0, 2^64): decided by its id alone, whatever else is in the file."""
    return int.from_bytes(hashlib.blake2b(question_id.encode(), digest_size=8).digest(), "big")


def held_out(question_id: str, fraction: float) -> bool:
    """Whether a question belongs to the validation split."""
    return draw(question_id) < fraction * _ALL


def held_out_draws(draws: NDArray[np.uint64], fraction: float) -> NDArray[Any]:
    """Which of many draws are held out, [n] bool."""
    bound = math.ceil(fraction * _ALL)  # exact: numpy would compare as float64, which cannot tell neighbours apart
    return np.full(len(draws), True) if bound >= _ALL else draws < np.uint64(max(0, bound))
