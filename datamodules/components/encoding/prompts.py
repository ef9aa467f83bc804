"""The text a student reads (docs/method.md, data): the question under `Problem:`, the rationale under `Solution:`."""

from __future__ import annotations


def prompt(question: str) -> str:
    """The prompt for a bare question; a rationale and EOS follow it."""
    return f"Problem:\n{question}\nSolution:\n"
