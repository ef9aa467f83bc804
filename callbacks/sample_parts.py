"""The part files of `predict`: what each process has sampled so far, for an interrupted run to go on from.

The first line says what the samples are made from; each other line is a record with a hash of the prompt it answers:

    {"made_from": {"adapter": "0f3c…", "version of torch": "2.13.0", …}}
    {"prompt": "91d2…", "schema": 1, "id": "q1/0", …}
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from datamodules.components.records.records import Rationale
from dust2gold.core.errors import InputError
from dust2gold.core.files import free_aside
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
        damaged: How many lines cannot be read; the last one of a killed run may be cut off.
    """

    file: Path
    lines: int = 0
    changed: list[str] = field(default_factory=list)
    records: list[Rationale] = field(default_factory=list)
    damaged: int = 0

    @classmethod
    def read(cls, file: Path, origin: SampleOrigin) -> SamplePart:
        """Reads a part."""
        first, *lines = file.read_bytes().removesuffix(b"\n").split(b"\n")
        part = cls(file, lines=len(lines))
        try:
            part.changed = origin.made.differences(json.loads(first)["made_from"])
        except (ValueError, RecursionError, KeyError, TypeError):
            part.changed = ["its first line is damaged"]
        for line in lines if not part.changed else []:
            try:
                value = json.loads(line.decode("utf-8"))
                prompt, record = value.pop("prompt"), Rationale.from_json(value)
            except (ValueError, RecursionError, KeyError, TypeError, AttributeError, InputError):
                part.damaged += 1
                continue
            if prompt == origin.prompts.get(record.question_id):
                part.records.append(record)
            elif record.question_id in origin.prompts:
                part.changed = ["prompts"]
        return part

    def report_unused(self) -> None:
        """Says what is not used; what was made otherwise is kept aside."""
        if self.changed and self.lines:
            changed, kept = ", ".join(self.changed), self.file.rename(free_aside(self.file))
            print(f"sampling anew: made otherwise ({changed}); kept: {kept}", file=sys.stderr)
        elif self.damaged:
            print(f"warning: {self.file}: left out {self.damaged:,} damaged lines", file=sys.stderr)
