"""The part files of `predict`: what each process has sampled so far, for an interrupted run to go on from.

The first line says what the samples are made from; each other line is a record with a hash of the prompt it answers:

    {"made_from": {"adapter": "0f3c…", "version of torch": "2.13.0", …}}
    {"prompt": "91d2…", "schema": 1, "id": "q1/0", …}
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from datamodules.components.records.records import Rationale
from dust2gold.core.errors import InputError
from dust2gold.core.files import free_aside, set_aside, write_bytes_atomically
from dust2gold.core.provenance import Provenance


@dataclass(frozen=True)
class SampleOrigin:
    """What samples are made from.

    Attributes:
        made: Everything except the prompts.
        prompts: A hash of the encoded prompt of each question, by the question's id.
    """

    made: Provenance
    prompts: Mapping[str, str]

    def write_header(self, stream: IO[Any]) -> None:
        """Begins a part."""
        stream.write(json.dumps({"made_from": dict(self.made.facts)}) + "\n")

    def write(self, stream: IO[Any], records: Iterable[Rationale]) -> None:
        """Appends records to a part."""
        for record in records:
            line = {"prompt": self.prompts[record.question_id], **record.to_json()}
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


@dataclass
class SamplePart:
    """What a part file holds.

    Attributes:
        lines: How many it has beside the first.
        changed: What differs in what it was made from; its records are not used then.
        records: Those that answer one of the prompts of this run.
        damaged: Numbers of damaged lines, counted from 1.
        torn: Bytes after the last whole line.
    """

    file: Path
    lines: int = 0
    changed: list[str] = field(default_factory=list)
    records: list[Rationale] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    torn: int = 0

    @classmethod
    def read(cls, file: Path, origin: SampleOrigin) -> SamplePart:
        """Reads a part."""
        first, *lines = file.read_bytes().split(b"\n")
        part = cls(file, torn=len(lines.pop()) if lines else 0, lines=len(lines))
        try:
            part.changed = origin.made.differences(json.loads(first)["made_from"])
        except (ValueError, RecursionError, KeyError, TypeError):
            part.changed = ["its first line is damaged"]
        if part.changed:
            return part
        for number, line in enumerate(lines, start=2):
            prompt, record = _read_line(line)
            if record is None:
                part.damaged.append(number)
            elif prompt == origin.prompts.get(record.question_id):
                part.records.append(record)
            elif record.question_id in origin.prompts:
                part.changed = ["prompts"]
        return part

    def whole(self) -> list[Rationale]:
        """The records; an InputError where a line is damaged."""
        if self.damaged:
            remedy = "run the same command again: it samples what stood there"
            raise InputError("damaged line", file=self.file, line=self.damaged[0], remedy=remedy)
        return self.records

    def report_unused(self) -> None:
        """Reports what is not used, and keeps it aside."""
        if self.torn:
            print(f"warning: {self.file}: left out {self.torn:,} bytes after the last whole line", file=sys.stderr)
        if self.changed:
            if self.lines:
                changed = ", ".join(self.changed)
                print(f"sampling anew: made otherwise ({changed}); kept: {set_aside(self.file)}", file=sys.stderr)
        elif self.damaged:  # a copy: until the part is rewritten, its whole samples are nowhere else
            write_bytes_atomically(copy := free_aside(self.file), self.file.read_bytes())
            lines = f"{len(self.damaged):,} damaged lines from line {self.damaged[0]} on"
            print(f"warning: {self.file}: left out {lines}; kept a copy: {copy}", file=sys.stderr)


def _read_line(line: bytes) -> tuple[str, Rationale | None]:
    """The prompt's hash and the record; no record if the line is damaged."""
    with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError, AttributeError, InputError):
        value = json.loads(line.decode("utf-8"))
        return value.pop("prompt"), Rationale.from_json(value)
    return "", None
