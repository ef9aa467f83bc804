"""Which questions are held out for validation."""

from __future__ import annotations

import hashlib


def held_out(question_id: str, fraction: float) -> bool:
    """Whether a question belongs to the validation split: decided by its id alone, whatever else is in the file."""
    digest = hashlib.blake2b(question_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64
