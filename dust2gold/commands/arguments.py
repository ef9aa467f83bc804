"""Types of arguments that several commands take, for argparse."""

from __future__ import annotations

import argparse


def names(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return number


def seeds(text: str) -> tuple[int, ...]:
    """Seeds with commas between, none twice."""
    parts = [part.strip() for part in text.split(",")]
    found = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(set(found)) != len(parts):
        raise argparse.ArgumentTypeError(f"different whole numbers such as 0,1,2 were expected, found '{text}'")
    return found
