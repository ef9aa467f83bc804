"""What a stage's result depends on, as hashes: equal fingerprints mean that running it again would change nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foundation.errors import InputError
from foundation.files import sha256_of
from pipeline.stage import Stage

ABSENT = "absent"
"""Stands for the hash of a path where nothing exists."""

CODE_ROOT = Path(__file__).resolve().parent.parent
"""The directory that holds `cli.py` and our packages, in a checkout as in an installation."""

_CODE = ("analyses", "callbacks", "datamodules", "embedded", "foundation", "lightning_modules", "pipeline", "cli.py")


@dataclass(frozen=True)
class Fingerprint:
    """Everything that decides what a stage makes.

    Attributes:
        commands: Its command lines.
        configs: SHA-256 of each file named after `--config`.
        inputs: SHA-256 of each declared input and of each output of the stages it needs.
        needs: The key of each stage it needs.
        code: The hash of our source files.
    """

    commands: tuple[tuple[str, ...], ...]
    configs: Mapping[str, str]
    inputs: Mapping[str, str]
    needs: Mapping[str, str]
    code: str

    @property
    def key(self) -> str:
        """The stage key: one SHA-256 over all of it."""
        parts = [self.commands, dict(self.configs), dict(self.inputs), dict(self.needs), self.code]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def differences(self, earlier: Fingerprint) -> list[str]:
        """Names what differs from an earlier fingerprint, in words for the plan; empty if nothing does."""
        found = ["code changed"] if self.code != earlier.code else []
        if len(self.commands) != len(earlier.commands):
            found.append(f"{len(self.commands)} commands instead of {len(earlier.commands)}")
        else:
            pairs = enumerate(zip(self.commands, earlier.commands, strict=True), 1)
            found += [f"command {number} changed" for number, (now, then) in pairs if now != then]
        for word, now, then in (
            ("config", self.configs, earlier.configs),
            ("input", self.inputs, earlier.inputs),
            ("stage", self.needs, earlier.needs),
        ):
            found += [f"{word} {how}" for how in _changes(now, then)]
        return found


def _changes(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    changes = [f"changed: {name}" for name in now if name in then and now[name] != then[name]]
    changes += [f"added: {name}" for name in now if name not in then]
    return changes + [f"removed: {name}" for name in then if name not in now]


class ContentHashes:
    """SHA-256 of files and directories, each file read once as long as its size and modification time stay."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}

    def of(self, path: Path) -> str:
        """Returns the hash of a file, of a directory's relative names and file hashes, or `ABSENT`.

        Raises:
            InputError: If a file cannot be read.
        """
        try:
            if path.is_dir():
                digest = hashlib.sha256()
                for file in sorted(p for p in path.rglob("*") if p.is_file()):
                    digest.update(f"{file.relative_to(path).as_posix()}\0{self._of_file(file)}\n".encode())
                return digest.hexdigest()
            return self._of_file(path) if path.exists() else ABSENT
        except OSError as error:
            remedy = "check the permissions"
            raise InputError(f"cannot read ({error.strerror or error})", file=path, remedy=remedy) from error

    def _of_file(self, file: Path) -> str:
        status = file.stat()
        name = (str(file), status.st_size, status.st_mtime_ns)
        if name not in self._known:
            self._known[name] = sha256_of(file)
        return self._known[name]


def code_version(root: Path = CODE_ROOT) -> str:
    """Returns one hash over the names and contents of `cli.py` and all `.py` files of our packages under `root`."""
    digest = hashlib.sha256()
    for name in _CODE:
        path = root / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"{file.relative_to(root).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def fingerprint_of(
    stage: Stage, needs: Mapping[str, str], made: Mapping[str, str], hashes: ContentHashes, code: str
) -> Fingerprint:
    """Takes the fingerprint of a stage as things stand.

    Args:
        stage: The stage.
        needs: The key of each stage it needs.
        made: SHA-256 of each output of these stages.
        hashes: Where file hashes are kept.
        code: The code version.
    """
    return Fingerprint(
        commands=stage.commands,
        configs={name: hashes.of(Path(name)) for name in stage.configs},
        inputs={**made, **{name: hashes.of(Path(name)) for name in stage.inputs}},
        needs=dict(needs),
        code=code,
    )
