"""Limits on the length of texts, as masks over the columns of a table: a longer text is an error, or is left out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from os import PathLike

from datamodules.components.table import Examples
from dust2gold.core.errors import InputError


@dataclass
class Limits:
    """How long texts may be."""

    max_length: int = sys.maxsize  # most tokens, prompt and EOS included
    drop_longer: bool = False  # leave out rationales of more tokens instead of refusing
    context: int | None = None  # the student's own limit, see `context_of`
    max_characters: int | None = None  # of a rationale, question included; longer ones are left out
    longer: int = 0  # left out for their tokens so far
    wider: int = 0  # left out for their characters

    @property
    def most(self) -> int:
        """Most tokens: the smaller of both limits."""
        return self.max_length if self.context is None else min(self.max_length, self.context)

    def apply(self, examples: Examples, file: str | PathLike[str]) -> Examples:
        """The rationales of a file that may be used; counts the others.

        Raises:
            InputError: If one has too many tokens, unless `drop_longer`.
        """
        if self.max_characters is not None:
            narrow = examples.numbers("characters") <= self.max_characters  # [n]
            self.wider += int((~narrow).sum())
            examples = examples.where(narrow)
        fits = examples.lengths <= self.most  # [n]
        if fits.all():
            return examples
        if not self.drop_longer:
            first = examples.where(~fits)
            length, line = int(first.lengths[0]), int(first.numbers("line")[0])
            raise self.too_long(first[0].id, length, file, line, "rationale")
        self.longer += int((~fits).sum())
        return examples.where(fits)

    def too_long(self, name: str, length: int, file: str | PathLike[str], line: int, field: str) -> InputError:
        """The error for a `rationale` or a `question`, which is never left out silently."""
        ours = self.most == self.max_length
        bound = f"--data.max_length {self.most}" if ours else f"the student's context of {self.most}"
        more = "raise --data.max_length" if ours else "take a student with a longer context"
        fewer = "give --data.drop_longer true" if field == "rationale" else "remove this line"
        problem = f"'{name}' has {length} tokens, more than {bound}"
        return InputError(problem, file=file, line=line, field=field, remedy=f"{fewer}, or {more}")

    def report(self) -> None:
        """Says on stderr how many were left out, if any."""
        if self.wider:
            print(f"left out {self.wider:,} rationales of more than {self.max_characters} characters", file=sys.stderr)
        if self.longer:
            print(f"left out {self.longer:,} rationales of more than {self.most} tokens", file=sys.stderr)
