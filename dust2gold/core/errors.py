"""The one error a user is meant to see: what is wrong, where, and the way out."""

from __future__ import annotations

from os import PathLike

from dust2gold.core.text import spelled


class InputError(Exception):
    """Something the user gave cannot be used. The command line prints it in one or two lines, without a traceback.

    What it quotes of files and of others is spelled out where a terminal would act on it.

    Args:
        problem: What is wrong, as a clause without a full stop.
        file: The file it stands in.
        line: Its line, counted from 1.
        field: The field of the record or the key of the config.
        remedy: What to do about it, as a sentence without a full stop.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | PathLike[str] | None = None,
        line: int | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.line = line
        self.field = field
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        where = spelled(self.file or "")
        if self.line is not None:
            where += f":{self.line}" if where else f"line {self.line}"
        parts = [where] if where else []
        if self.field is not None:
            parts.append(f"field '{spelled(self.field)}'")
        text = ": ".join([*parts, spelled(self.problem)])
        return f"{text}\n  {spelled(self.remedy)}" if self.remedy else text


def reason(error: Exception) -> str:
    """The first line of an error's text, for a message of one line; the second, too, where the first announces it."""
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {more[0].strip()}" if more and first.endswith(":") else first
