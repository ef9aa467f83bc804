"""Which questions are held out for validation."""

from __future__ import annotations

import hashlib


def held_out(question_id: str, fraction: float) -> bool:
    """Whether a question belongs to the validation split: decided by its id alone, whatever else is in the file."""
    drawn = int.from_bytes(hashlib.blake2b(question_id.encode(), digest_size=8).digest(), "big")
    return drawn < fraction * 2**64
