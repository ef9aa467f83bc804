"""What a stage did, kept as `<run>/.stages/<name>.json`: enough to skip it, resume it or repeat it."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from dust2gold.core.files import write_json
from dust2gold.core.provenance import Provenance

State = Literal["running", "done", "redo"]
"""`running` from the first command until the outputs are checked, `redo` when it was asked for anew but not begun."""


@dataclass
class CommandRecord:
    """One command line of a stage, how long it took over all attempts, and whether it has completed."""

    command: str
    seconds: float = 0.0
    done: bool = False


@dataclass
class StageRecord:
    """The record of one stage."""

    stage: str
    about: str
    state: State
    made_from: Provenance  # as it was when the stage started
    commands: list[CommandRecord]
    started: str  # ISO 8601 with the time zone
    outputs: dict[str, str] = field(default_factory=dict)  # a hash of each one's content; empty until it is done

    @property
    def seconds(self) -> float:
        """The time of all its commands together."""
        return sum(record.seconds for record in self.commands)

    @property
    def completed(self) -> tuple[bool, ...]:
        """Which of its commands have completed."""
        return tuple(record.done for record in self.commands)


class Records:
    """The records of one run directory."""

    def __init__(self, run: Path) -> None:
        self._directory = run / ".stages"

    def path(self, stage: str) -> Path:
        """The file of a stage's record."""
        return self._directory / f"{stage}.json"

    def read(self, stage: str) -> StageRecord | None:
        """The record of a stage, or None, with a warning on stderr if there is one that cannot be read."""
        path = self.path(stage)
        try:
            record = _from_json(json.loads(path.read_text(encoding="utf-8")))
            if record.stage != stage:  # which is where it would be written to next
                raise ValueError(f"of another stage, {record.stage!r}")
            return record
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"warning: {path}: unreadable ({error!r}); the stage counts as not done", file=sys.stderr)
            return None

    def write(self, record: StageRecord) -> None:
        """Writes the record of its stage, whole or not at all."""
        facts, key = dict(record.made_from.facts), record.made_from.key
        value = {**asdict(record), "made_from": facts, "key": key, "python": platform.python_version()}
        write_json(self.path(record.stage), value, indent=1)

    def read_all(self) -> list[StageRecord]:
        """Every readable record, the earliest started first."""
        found = [self.read(path.stem) for path in sorted(self._directory.glob("*.json"))]
        return sorted((record for record in found if record is not None), key=lambda record: record.started)


def _from_json(value: dict[str, Any]) -> StageRecord:
    made_from = Provenance(value.pop("made_from"))
    if value["state"] not in get_args(State) or value.pop("key") != made_from.key:
        raise ValueError("another state, or its key does not fit")
    value.pop("python", None)  # for a reader alone
    return StageRecord(**{**value, "made_from": made_from, "commands": [CommandRecord(**c) for c in value["commands"]]})


def duration(seconds: float) -> str:
    """A duration as `12 s`, `3 min 05 s` or `1 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
