"""Limits on lengths: of rationales, as masks over the columns of a table; of questions, which need room for an answer.

A rationale that is too long to train on is an error, or is left out. A question has no limit but the student's context.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from os import PathLike

from datamodules.components.encoding.prompts import PLAIN
from datamodules.components.table import Examples
from dust2gold.core.errors import InputError


@dataclass
class Limits:
    """How long rationales may be."""

    max_length: int = sys.maxsize  # most tokens, prompt and EOS included
    drop_longer: bool = False  # leave out rationales of more tokens instead of refusing
    context: int | None = None  # the student's own limit, see `context_of`
    max_characters: int | None = None  # of a whole text, with its question and headings: it must have fewer
    headings: int = len(PLAIN.ask(""))  # characters of the prompt without its question
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
            narrow = examples.numbers("characters") + self.headings < self.max_characters  # [n]
            self.wider += int((~narrow).sum())
            examples = examples.where(narrow)
        fits = examples.lengths <= self.most  # [n]
        if fits.all():
            return examples
        if not self.drop_longer:
            first = examples.where(~fits)
            length, line = int(first.lengths[0]), int(first.numbers("line")[0])
            raise self._too_long(first[0].id, length, file, line)
        self.longer += int((~fits).sum())
        return examples.where(fits)

    def _too_long(self, name: str, length: int, file: str | PathLike[str], line: int) -> InputError:
        ours = self.most == self.max_length
        bound = f"--data.max_length {self.most}" if ours else f"the student's context of {self.most}"
        more = "raise --data.max_length" if ours else "take a student with a longer context"
        problem, remedy = f"'{name}' has {length} tokens, more than {bound}", f"give --data.drop_longer true, or {more}"
        return InputError(problem, file=file, line=line, field="rationale", remedy=remedy)

    def report(self) -> None:
        """Says on stderr how many were left out, if any."""
        if self.wider:
            limit = f"{self.max_characters:,} characters or more, question and headings included"
            print(f"left out {self.wider:,} rationales of {limit}", file=sys.stderr)
        if self.longer:
            print(f"left out {self.longer:,} rationales of more than {self.most:,} tokens", file=sys.stderr)


@dataclass
class AnswerRoom:
    """What the student's context leaves for answers. Every question that leaves any is asked."""

    context: int | None  # see `context_of`
    wanted: int | None  # tokens that an answer may have; None: not known
    short: dict[str, int] = field(default_factory=dict)  # the room after each question that leaves less than that

    def check(self, name: str, length: int, file: str | PathLike[str], line: int) -> None:
        """Takes note of a question of so many tokens, prompt included.

        Raises:
            InputError: If it leaves no room at all.
        """
        if self.context is None:
            return
        room = self.context - length
        if room < 1:
            problem = f"'{name}' has {length:,} tokens: the student's context of {self.context:,} holds no answer to it"
            remedy = "remove this line, or take a student with a longer context"
            raise InputError(problem, file=file, line=line, field="question", remedy=remedy)
        if self.wanted is not None and room < self.wanted:
            self.short[name] = room

    def report(self) -> None:
        """Says on stderr after how many questions answers are cut short, if any."""
        if self.short:
            least = min(self.short, key=lambda name: self.short[name])
            print(
                f"{len(self.short):,} questions leave less than {self.wanted:,} tokens for an answer in the context of "
                f"{self.context:,}, where it is cut off (the least: {self.short[least]:,} tokens after '{least}')",
                file=sys.stderr,
            )
