"""What a stage's result depends on, as hashes: equal fingerprints mean that running it again would change nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from dust2gold.core.errors import InputError
from dust2gold.core.files import sha256_of, write_atomically
from dust2gold.core.students import locate_student
from dust2gold.run.stage import Stage

ABSENT = "absent"
"""Stands for the hash of a path where nothing exists."""

CODE_ROOT = Path(__file__).resolve().parents[2]
"""The directory that holds `cli.py` and our packages, in a checkout as in an installation."""

_LARGE = 64 << 20  # bytes


@dataclass(frozen=True)
class Fingerprint:
    """Everything that decides what a stage makes.

    Attributes:
        commands: Its command lines.
        configs: SHA-256 of each file named after `--config`.
        inputs: SHA-256 of each declared input, of the directory of each student, and of each output of the stages it
            needs.
        needs: The key of each stage it needs.
        code: The hash of each part of our source that its verbs rest on; empty of a manifest of schema 1, which knew
            one hash of everything.
        libraries: The version of each library that decides results.
    """

    commands: tuple[tuple[str, ...], ...]
    configs: Mapping[str, str]
    inputs: Mapping[str, str]
    needs: Mapping[str, str]
    code: Mapping[str, str]
    libraries: Mapping[str, str]

    @property
    def key(self) -> str:
        """The stage key: one SHA-256 over all of it."""
        sums = (self.configs, self.inputs, self.needs, self.code, self.libraries)
        parts = [self.commands, *map(dict, sums)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def differences(self, earlier: Fingerprint) -> list[str]:
        """Names what differs from an earlier fingerprint, in words for the plan; empty if nothing does."""
        found = self._basis_differences(earlier)
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

    def _basis_differences(self, earlier: Fingerprint) -> list[str]:
        if not earlier.code:
            return ["code changed"]
        parts = _differing(self.code, earlier.code)
        found = [f"code changed: {', '.join(parts)}"] if parts else []
        for name in _differing(self.libraries, earlier.libraries):
            then, now = earlier.libraries.get(name, "not counted"), self.libraries.get(name, "not counted")
            found.append(f"library changed: {name} ({then}, now {now})")
        return found


def _differing(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    return [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]


def _changes(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    changes = [f"changed: {name}" for name in now if name in then and now[name] != then[name]]
    changes += [f"added: {name}" for name in now if name not in then]
    return changes + [f"removed: {name}" for name in then if name not in now]


class ContentHashes:
    """SHA-256 of files and directories, each file read once as long as its size and modification time stay.

    Args:
        store: Where the hashes of large files are kept from one run to the next, once its directory is there.
    """

    def __init__(self, store: Path | None = None) -> None:
        self._store = store
        self._known: dict[tuple[str, int, int], str] = {}
        self._large: dict[str, str] | None = None

    def of(self, path: Path) -> str:
        """Returns the hash of a file, of a directory's relative names and file hashes, or `ABSENT`.

        Raises:
            InputError: If a file cannot be read.
        """
        try:
            if path.is_dir():
                digest = hashlib.sha256()
                files = sorted(p for p in path.rglob("*") if p.is_file())
                for file in tqdm(files, desc=f"check {path.name}", unit="file", delay=2, leave=False, disable=None):
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
            large = status.st_size > _LARGE
            self._known[name] = self._of_large(file, status.st_mtime_ns) if large else sha256_of(file)
        return self._known[name]

    def _of_large(self, file: Path, time: int) -> str:
        """As `sha256_of`; weights of tens of gigabytes are not read again by every `run`."""
        name = f"{file.resolve()} {file.stat().st_size} {time}"
        if self._large is None:
            self._large = _stored(self._store)
        if name not in self._large:
            self._large[name] = sha256_of(file)
            if self._store is not None and self._store.parent.is_dir():  # `run --dry-run` makes none
                with write_atomically(self._store) as stream:
                    json.dump(self._large, stream, indent=1)
        return self._large[name]


def _stored(store: Path | None) -> dict[str, str]:
    try:
        value = {} if store is None else json.loads(store.read_text(encoding="utf-8"))
        return {str(name): str(digest) for name, digest in value.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def fingerprint_of(
    stage: Stage,
    needs: Mapping[str, str],
    made: Mapping[str, str],
    hashes: ContentHashes,
    code: Mapping[str, str],
    libraries: Mapping[str, str],
) -> Fingerprint:
    """Takes the fingerprint of a stage as things stand.

    Args:
        stage: The stage.
        needs: The key of each stage it needs.
        made: SHA-256 of each output of these stages.
        hashes: Where file hashes are kept.
        code: The hash of each part of our code that its verbs rest on.
        libraries: The version of each library they rest on.
    """
    students = {name: Path(locate_student(name)) for name in stage.students}
    found = {name: hashes.of(path) for name, path in students.items() if path.is_dir()}  # the others are hub names
    return Fingerprint(
        commands=stage.commands,
        configs={name: hashes.of(Path(name)) for name in stage.configs},
        inputs={**made, **{name: hashes.of(Path(name)) for name in stage.inputs}, **found},
        needs=dict(needs),
        code=dict(code),
        libraries=dict(libraries),
    )
