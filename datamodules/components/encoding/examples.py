"""Encoded rationales in columns, in memory or mapped from files: nothing of one is an object before it is asked for.

with contextlib.ExitStack() as stack:
writer = ColumnWriter({name: stack.enter_context(open(…, "wb")) for name in COLUMNS})
for rationale, encoded in …:
writer.add(rationale, encoded)

examples = Examples([file_1, file_2])      # of several files; examples[17] is an Example
train, held = examples.split(0.05)         # by the question's id
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.components.batching.collate import IGNORE, Labelled
from datamodules.components.batching.groups import Candidate
from datamodules.components.encoding.tokenization import Encoded
from datamodules.components.records.records import Rationale
from datamodules.components.records.splits import draw, held_out_draws
from dust2gold.core.errors import InputError

COLUMNS: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "ids": "i4",
        "ends": "i8",
        "prompts": "i4",
        "positive": "?",
        "draws": "u8",
        "checks": "u4",
        "names": "u1",
        "name_ends": "i8",
        "questions": "u1",
        "question_ends": "i8",
    }.items()
}
"""`ids` of all samples one after another; for each where its own end, how many are the prompt's, its verdict, its
question's draw (`splits.draw`), a CRC-32 of ids and names; its id and its question's in UTF-8, and where they end."""


@dataclass(frozen=True, slots=True)
class Example(Candidate):
    """One encoded rationale, with its name."""

    id: str

    def labelled(self, loss_on_prompt: bool) -> Labelled:
        """With the targets: rationale and EOS, and the prompt if asked for."""
        prompt, completion = self.encoded.prompt, self.encoded.completion
        return Labelled(self.encoded.ids, (prompt if loss_on_prompt else [IGNORE] * len(prompt)) + completion)


class ColumnWriter:
    """Writes encoded rationales as columns.

    Args:
        streams: Where each of `COLUMNS` goes.

    Attributes:
        checks: CRC-32 of what each column holds so far.
        samples: How many were added.
    """

    def __init__(self, streams: Mapping[str, IO[bytes]]) -> None:
        self._streams = streams
        self._ends = dict.fromkeys(("ids", "names", "questions"), 0)
        self.checks = dict.fromkeys(COLUMNS, 0)
        self.samples = 0

    def add(self, rationale: Rationale, encoded: Encoded) -> None:
        """Writes one more."""
        ids, name, question = encoded.tobytes(), rationale.id.encode(), rationale.question_id.encode()
        self._ends["ids"] += len(encoded)
        self._ends["names"] += len(name)
        self._ends["questions"] += len(question)
        self.samples += 1
        values = {
            "ids": ids,
            "ends": struct.pack("=q", self._ends["ids"]),
            "prompts": struct.pack("=i", encoded.start),
            "positive": struct.pack("=?", rationale.verdict == "positive"),
            "draws": struct.pack("=Q", draw(rationale.question_id)),
            "checks": struct.pack("=I", _check(ids, name, question)),
            "names": name,
            "name_ends": struct.pack("=q", self._ends["names"]),
            "questions": question,
            "question_ends": struct.pack("=q", self._ends["questions"]),
        }
        for column, value in values.items():
            self._streams[column].write(value)
            self.checks[column] = zlib.crc32(value, self.checks[column])


class EncodedFile:
    """The rationales of one file.

    Args:
        columns: Each of `COLUMNS`.
        source: What to name if a sample turns out damaged: the directory the columns are mapped from.
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]], source: str = "memory") -> None:
        self.columns = columns
        self._source = source

    def __len__(self) -> int:
        return len(self.columns["ends"])

    def example(self, row: int) -> Example:
        """One example.

        Args:
            row: Its number in the file, from 0.

        Raises:
            InputError: If it is damaged.
        """
        ids, name = self._cut("ids", "ends", row), self._cut("names", "name_ends", row)
        question = self._cut("questions", "question_ends", row)
        if _check(ids, name, question) != int(self.columns["checks"][row]):
            raise InputError(
                f"sample {row + 1} is damaged (CRC-32)",
                file=self._source,
                remedy="remove this directory: the next run encodes the file again",
            )
        encoded = Encoded.frombytes(ids, int(self.columns["prompts"][row]))
        return Example(question.decode(), encoded, bool(self.columns["positive"][row]), name.decode())

    def _cut(self, column: str, ends: str, row: int) -> bytes:
        bounds = self.columns[ends]
        return self.columns[column][int(bounds[row - 1]) if row else 0 : int(bounds[row])].tobytes()


class Examples(Sequence[Example]):
    """Rationales of several files, or some of them.

    Args:
        files: One after another.
        rows: Which of them, counted through all files, [n] int64; default all.
    """

    def __init__(self, files: Sequence[EncodedFile], rows: Tensor | None = None) -> None:
        self._files = list(files)
        self._starts = [0]
        for file in self._files:
            self._starts.append(self._starts[-1] + len(file))
        self._rows = torch.arange(self._starts[-1]) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> Example: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Example]: ...
    def __getitem__(self, row: int | slice) -> Example | Sequence[Example]:
        if isinstance(row, slice):
            return Examples(self._files, self._rows[row])
        place = int(self._rows[row])
        number = bisect_right(self._starts, place) - 1
        return self._files[number].example(place - self._starts[number])

    @property
    def lengths(self) -> Tensor:
        """Tokens of each [n] int64, prompt and EOS included."""
        return self._chosen([np.diff(file.columns["ends"], prepend=0) for file in self._files], torch.int64)

    @property
    def positive(self) -> Tensor:
        """The verdict of each [n] bool."""
        return self._chosen([file.columns["positive"] for file in self._files], torch.bool)

    def targets(self, loss_on_prompt: bool) -> Tensor:
        """Tokens of each that are predicted [n] int64: all but the first, or those after the prompt."""
        hidden = (
            1
            if loss_on_prompt
            else self._chosen([file.columns["prompts"] for file in self._files], torch.int64).clamp_min(1)
        )
        return self.lengths - hidden

    def split(self, fraction: float) -> tuple[Examples, Examples]:
        """(the others, those of a share of the questions), chosen by a hash of the question's id."""
        held = [torch.from_numpy(held_out_draws(file.columns["draws"], fraction)) for file in self._files]
        mask = torch.cat([*held, torch.zeros(0, dtype=torch.bool)])[self._rows]
        return Examples(self._files, self._rows[~mask]), Examples(self._files, self._rows[mask])

    def _chosen(self, parts: Sequence[NDArray[Any]], dtype: torch.dtype) -> Tensor:
        whole = torch.from_numpy(np.concatenate([*parts, np.zeros(0, parts[0].dtype if parts else np.int64)]))
        return whole[self._rows].to(dtype)


def _check(*parts: bytes) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value
