"""What a stage did, kept as `<run>/.stages/<name>.json`: enough to skip it, resume it or repeat it."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from dust2gold.core.files import write_atomically
from dust2gold.run.fingerprint import Fingerprint

SCHEMA = 2
State = Literal["running", "done", "redo"]
"""`running` from the first command until the outputs are checked, `redo` when it was asked for anew but not begun."""


@dataclass
class CommandRecord:
    """One command line of a stage, how long it took over all attempts, and whether it has completed."""

    command: tuple[str, ...]
    seconds: float = 0.0
    done: bool = False


@dataclass
class Manifest:
    """The record of one stage.

    Attributes:
        stage: Its name.
        about: What it does.
        state: How far it is.
        fingerprint: What it depends on, as it was when it started.
        commands: Its command lines.
        outputs: SHA-256 of each declared output; empty until it is done.
        versions: Of Python and the libraries that decide numbers.
        started: When its first command started, ISO 8601 with the time zone.
    """

    stage: str
    about: str
    state: State
    fingerprint: Fingerprint
    commands: list[CommandRecord]
    started: str
    outputs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: library_versions())

    @property
    def seconds(self) -> float:
        """The time of all its commands together."""
        return sum(record.seconds for record in self.commands)

    def to_json(self) -> dict[str, Any]:
        """Returns the manifest as it is written."""
        return {
            "schema": SCHEMA,
            "stage": self.stage,
            "about": self.about,
            "state": self.state,
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "key": self.fingerprint.key,
            "commands": [asdict(record) for record in self.commands],
            "configs": dict(self.fingerprint.configs),
            "inputs": dict(self.fingerprint.inputs),
            "needs": dict(self.fingerprint.needs),
            "outputs": self.outputs,
            "code": dict(self.fingerprint.code),
            "libraries": dict(self.fingerprint.libraries),
            "versions": self.versions,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Manifest:
        """Reads what `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: If it is anything else.
        """
        if value["schema"] not in (1, SCHEMA) or value["state"] not in get_args(State):
            raise ValueError("another schema or state")
        commands = [
            CommandRecord(tuple(map(str, record["command"])), float(record["seconds"]), bool(record["done"]))
            for record in value["commands"]
        ]
        fingerprint = Fingerprint(
            commands=tuple(record.command for record in commands),
            configs=_texts(value["configs"]),
            inputs=_texts(value["inputs"]),
            needs=_texts(value["needs"]),
            code={} if value["schema"] == 1 else _texts(value["code"]),
            libraries={} if value["schema"] == 1 else _texts(value["libraries"]),
        )
        if value["key"] != (fingerprint.key if value["schema"] == SCHEMA else _first_key(fingerprint, value["code"])):
            raise ValueError("its key does not fit its contents")
        return cls(
            stage=str(value["stage"]),
            about=str(value["about"]),
            state=value["state"],
            fingerprint=fingerprint,
            commands=commands,
            started=str(value["started"]),
            outputs=_texts(value["outputs"]),
            versions=_texts(value["versions"]),
        )


def _first_key(fingerprint: Fingerprint, code: str) -> str:
    """The key in a manifest of schema 1, whose `code` is one hash of everything."""
    parts = [fingerprint.commands, fingerprint.configs, fingerprint.inputs, fingerprint.needs, code]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path, stage: str) -> Manifest | None:
    """Returns the stage's manifest in a file, or None, with a warning on stderr if there is one that cannot be read."""
    try:
        manifest = Manifest.from_json(json.loads(path.read_text(encoding="utf-8")))
        if manifest.stage != stage:  # which is where it would be written to next
            raise ValueError(f"of another stage, {manifest.stage!r}")
        return manifest
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"warning: {path}: unreadable ({error!r}); the stage counts as not done", file=sys.stderr)
        return None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes a manifest, whole or not at all."""
    with write_atomically(path) as stream:
        json.dump(manifest.to_json(), stream, indent=1, ensure_ascii=False)


class Manifests:
    """The manifests of one run directory."""

    def __init__(self, run: Path) -> None:
        self._directory = run / ".stages"

    def read(self, stage: str) -> Manifest | None:
        """Returns the manifest of a stage, None if there is none that can be read."""
        return read_manifest(self._directory / f"{stage}.json", stage)

    def write(self, manifest: Manifest) -> None:
        """Writes the manifest of its stage."""
        write_manifest(self._directory / f"{manifest.stage}.json", manifest)

    def forget(self, stage: str) -> None:
        """Removes the manifest of a stage."""
        (self._directory / f"{stage}.json").unlink(missing_ok=True)

    def read_all(self) -> list[Manifest]:
        """Returns every readable manifest, the earliest started first."""
        found = [self.read(path.stem) for path in sorted(self._directory.glob("*.json"))]
        return sorted((manifest for manifest in found if manifest is not None), key=lambda m: m.started)


def library_versions(names: Sequence[str] = ("torch", "transformers", "peft", "lightning")) -> dict[str, str]:
    """Returns the version of Python and of those of the named libraries that are installed."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _texts(value: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()}
