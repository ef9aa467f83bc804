"""Files of rationales as columns of examples: encoded into memory, or once into a directory that every process maps.

    recipe = Recipe(load_tokenizer("embedded"), LengthLimit(1024, drop=True))
    recipe.read(file)                       # an EncodedFile in memory
    recipe.keep(file, Path("encoded"))      # the same, mapped from encoded/<key>; made where it is not there yet

What is kept depends on the file's contents, the tokenizer and the limits alone: `key` hashes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datamodules.components.encoding.examples import COLUMNS, ColumnWriter, EncodedFile
from datamodules.components.encoding.prompts import prompt
from datamodules.components.encoding.tokenization import (
    CharacterLimit,
    LengthLimit,
    encode_rationales,
    eos_of,
    opening_of,
)
from datamodules.components.records.records import Rationale
from dust2gold.core.errors import InputError
from dust2gold.core.files import open_in_place, open_text, set_aside, sha256_of, write_directory_atomically
from dust2gold.core.jsonl import count_lines, read_json_lines
from dust2gold.core.locks import hold

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FACTS_FILE = "facts.json"
SCHEMA = 1
_CHECKED_BY_SAMPLE = ("ids", "names", "questions")
"""The large columns, of which each sample has a checksum; the others are checked when they are mapped."""


@dataclass
class Recipe:
    """How files of rationales become examples.

    Attributes:
        tokenizer: The student's.
        tokens: The limit on the tokens of each; counts what it drops.
        characters: That on its characters; counts as well.
        allow_ungradable: Take rationales whose verdict is `ungradable` too.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens: LengthLimit
    characters: CharacterLimit = field(default_factory=CharacterLimit)
    allow_ungradable: bool = False

    def read(self, file: Path) -> EncodedFile:
        """Encodes a file into memory.

        Raises:
            InputError: If it is missing or damaged, holds nothing to train on, or a text is too long or ungradable.
        """
        streams = {name: BytesIO() for name in COLUMNS}
        self._write(file, ColumnWriter(streams))
        return EncodedFile({name: np.frombuffer(streams[name].getbuffer(), kind) for name, kind in COLUMNS.items()})

    def keep(self, file: Path, directory: Path) -> EncodedFile:
        """Maps a file's examples from `directory`; makes them first where they are not there, or are damaged.

        Of processes that ask at the same time one makes them, and the others wait for it; where the file system has no
        locks, each makes them, and those of the first stay.

        Raises:
            InputError: As `read`, or if the directory cannot be written.
        """
        target = directory / self.key(file)
        if not self._counted(target):
            with _alone(directory, target.name):
                if not self._counted(target):
                    self._make(file, target)
        return EncodedFile({name: _mapped(target, name) for name in COLUMNS}, str(target))

    def key(self, file: Path) -> str:
        """The name of a file's examples: a hash of all they depend on.

        Raises:
            InputError: If the file is missing.
        """
        with open_text(file):  # tells of a missing one
            pass
        facts = {
            "schema": SCHEMA,
            "byteorder": sys.byteorder,
            "file": sha256_of(file),
            "prompt": prompt("{question}"),
            "tokenizer": _identity(self.tokenizer),
            "tokens": [self.tokens.most, self.tokens.drop],
            "characters": self.characters.most,
            "allow_ungradable": self.allow_ungradable,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def report(self) -> None:
        """Says on stderr what was left out."""
        self.characters.report()
        self.tokens.report()

    def _counted(self, target: Path) -> bool:
        """Whether sound examples lie there; what they leave out then counts as left out here."""
        if (facts := _sound(target)) is None:
            return False
        self.tokens.dropped += facts["longer"]
        self.characters.dropped += facts["wider"]
        return True

    def _make(self, file: Path, target: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # there are none, or another process was quicker
            print(f"encoding {file} again: kept damaged examples as {set_aside(target)}", file=sys.stderr)
        longer, wider = self.tokens.dropped, self.characters.dropped
        with write_directory_atomically(target) as part, contextlib.ExitStack() as stack:
            streams: dict[str, IO[bytes]] = {
                name: stack.enter_context((part / f"{name}.bin").open("wb")) for name in COLUMNS
            }
            writer = ColumnWriter(streams)
            self._write(file, writer)
            for stream in streams.values():
                stream.flush()
                os.fsync(stream.fileno())
            facts = {
                "schema": SCHEMA,
                "file": file.name,
                "samples": writer.samples,
                "longer": self.tokens.dropped - longer,
                "wider": self.characters.dropped - wider,
                "bytes": {name: stream.tell() for name, stream in streams.items()},
                "crc32": writer.checks,
            }
            (part / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def _write(self, file: Path, writer: ColumnWriter) -> None:
        usable = encode_rationales(self.tokenizer, file, self._usable(file), self.tokens, count_lines(file))
        for rationale, encoded in usable:
            writer.add(rationale, encoded)
        if not writer.samples:
            raise InputError(
                "holds no rationale to train on",
                file=file,
                remedy="all are too long: raise --data.max_length or --data.max_characters"
                if file.stat().st_size
                else "check summary.json beside it: the teacher may have no right or no wrong samples",
            )

    def _usable(self, file: Path) -> Iterator[tuple[int, Rationale]]:
        for line, value in read_json_lines(file):
            rationale = Rationale.from_json(value, file, line)
            if rationale.verdict == "ungradable" and not self.allow_ungradable:
                raise InputError(
                    f"'{rationale.id}' is ungradable",
                    file=file,
                    line=line,
                    field="verdict",
                    remedy="train on positive.jsonl or negative.jsonl, or give --data.allow_ungradable true",
                )
            if self.characters.admits(rationale):
                yield line, rationale


def _identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what a tokenizer makes of texts."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    model = json.dumps(sorted(tokenizer.get_vocab().items())) if fast is None else fast.to_str()
    ends = [type(tokenizer).__name__, opening_of(tokenizer), eos_of(tokenizer)]
    return hashlib.sha256(f"{json.dumps(ends)}{model}".encode()).hexdigest()


@contextlib.contextmanager
def _alone(directory: Path, name: str) -> Iterator[None]:
    """Waits until no other process makes or checks the examples of this name."""
    file = directory / f".{name}.lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stream = open_in_place(file, "a")
    except OSError as error:
        raise InputError(
            f"cannot write ({error.strerror or error})",
            file=file,
            field="data.encoded",
            remedy="name a directory that can be written",
        ) from error
    with stream:
        hold(stream, wait=True)
        yield


def _sound(target: Path) -> dict[str, Any] | None:
    """The facts of examples that lie in a directory; None if there are none, or they are damaged."""
    try:
        facts: dict[str, Any] = json.loads((target / FACTS_FILE).read_text(encoding="utf-8"))
        sizes = {name: (target / f"{name}.bin").stat().st_size for name in COLUMNS}
        if sizes != facts["bytes"] or not {"longer", "wider"} <= facts.keys():
            return None
        small = [name for name in COLUMNS if name not in _CHECKED_BY_SAMPLE]
        sound = all(zlib.crc32(_mapped(target, name).data) == facts["crc32"][name] for name in small)
        return facts if sound else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _mapped(target: Path, name: str) -> NDArray[Any]:
    return np.asarray(np.memmap(target / f"{name}.bin", COLUMNS[name], "r"))
