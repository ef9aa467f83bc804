"""Weights in safetensors files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from dust2gold.core.errors import InputError


@contextlib.contextmanager
def telling_of_a_full_disk(path: Path) -> Iterator[None]:
    """Runs a block that writes weights: of a full disk safetensors makes an error of its own, no OSError."""
    try:
        yield
    except SafetensorError as error:
        raise InputError(f"cannot write ({error})", file=path, remedy="free some space") from error
