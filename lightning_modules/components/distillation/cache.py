"""Samples under keys in safetensors files, which several processes write and all of them read.

A process keeps what it adds in memory and writes it as a new file, `part-<rank>-<random>.safetensors`, at `flush` and
at every 64 MiB. Files are never changed. One holds n samples of N rows in all:

    keys [n, 16] uint8 · counts [n] int64, each sample's rows · checksums [n] int64 · columns [N, ...]

A killed process loses what it had not flushed. Files are memory-mapped; a sample's checksum (CRC-32) is verified when
it is first read. A damaged file is removed, and its samples are computed again.
"""

from __future__ import annotations

import sys
import uuid
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dust2gold.core.errors import reason
from dust2gold.core.files import recover, write_bytes_atomically
from dust2gold.core.text import spelled

Columns = dict[str, Tensor]
"""Tensors [N, ...] on the CPU, of as many rows as there are target tokens."""


class SampleCache:
    """The files of one directory, and what this process has added since its last flush.

    `layout` are the columns, without rows; `rank`, of this process, stands in the names of its files.
    """

    def __init__(self, directory: Path, layout: Columns, rank: int = 0, flush_bytes: int = 64 << 20) -> None:
        self.directory = directory
        self.layout = layout
        self.rank = rank
        self.flush_bytes = flush_bytes
        self._added: dict[bytes, Columns] = {}
        self._added_bytes = 0
        self._seen: set[Path] = set()
        self._index: dict[bytes, tuple[_Part, int]] = {}  # each sample's file and number in it
        for unfinished in directory.glob(".part-*.safetensors.*.part"):
            recover(directory / (unfinished.name[1:].partition(".safetensors")[0] + ".safetensors"))
        self.refresh()

    def __len__(self) -> int:
        """Number of samples, including those that turn out damaged when they are read."""
        return len(self._added) + len(self._index)

    def get(self, key: bytes) -> Columns | None:
        """A sample's columns; None if it is not there."""
        if key in self._added:
            return self._added[key]
        if key not in self._index:
            return None
        part, number = self._index[key]
        columns = part.sample(key, number)
        if columns is None:
            self._remove(part.path, "a checksum does not hold")
        return columns

    def add(self, key: bytes, columns: Columns) -> None:
        """Adds a sample, and flushes when enough have been added."""
        self._added[key] = columns
        self._added_bytes += sum(column.nbytes for column in columns.values())
        if self._added_bytes >= self.flush_bytes:
            self.flush()

    def flush(self) -> None:
        """Writes what has been added; an InputError if the disk is full or the directory cannot be written."""
        if not self._added:
            return
        samples = list(self._added.values())
        tensors = {name: torch.cat([sample[name] for sample in samples]) for name in self.layout}  # [N, ...]
        tensors["keys"] = torch.tensor([list(key) for key in self._added], dtype=torch.uint8)  # [n, 16]
        tensors["counts"] = torch.tensor([len(next(iter(sample.values()))) for sample in samples])  # [n]
        tensors["checksums"] = torch.tensor([_checksum(key, sample) for key, sample in self._added.items()])  # [n]
        path = self.directory / f"part-{self.rank}-{uuid.uuid4().hex}.safetensors"
        write_bytes_atomically(path, save(tensors))
        self._added, self._added_bytes = {}, 0
        self._open(path)

    def refresh(self) -> None:
        """Finds what other processes have written since."""
        for path in sorted({*self.directory.glob("part-*.safetensors")} - self._seen):
            self._open(path)

    def _open(self, path: Path) -> None:
        self._seen.add(path)
        try:
            part = _Part(path, self.layout)
        except FileNotFoundError:  # another process found it damaged
            return
        except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
            self._remove(path, reason(error))
            return
        for number, key in enumerate(part.keys):
            self._index.setdefault(key, (part, number))

    def _remove(self, path: Path, problem: str) -> None:
        self._index = {key: entry for key, entry in self._index.items() if entry[0].path != path}
        path.unlink(missing_ok=True)
        message = f"warning: {path}: damaged ({problem}); removed, its samples are computed again"
        print(spelled(message), file=sys.stderr)


class _Part:
    """A memory-mapped file; a SafetensorError, KeyError or ValueError if it does not have the columns of `layout`."""

    def __init__(self, path: Path, layout: Columns) -> None:
        self.path = path
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        self.keys = [key.tobytes() for key in tensors["keys"].numpy()]
        self._ends = tensors["counts"].cumsum(0)  # [n]
        self._checksums = tensors["checksums"]  # [n]
        self._columns: Columns = {name: tensors[name] for name in layout}
        self._checked: set[int] = set()
        rows = int(self._ends[-1])
        for name, column in self._columns.items():
            if (column.dtype, column.shape) != (layout[name].dtype, (rows, *layout[name].shape[1:])):
                raise ValueError(f"{name} has another shape")

    def sample(self, key: bytes, number: int) -> Columns | None:
        """The columns of a sample; None if they are damaged."""
        start = int(self._ends[number - 1]) if number else 0
        columns = {name: column[start : int(self._ends[number])] for name, column in self._columns.items()}
        if number not in self._checked:
            if _checksum(key, columns) != int(self._checksums[number]):
                return None
            self._checked.add(number)
        return columns


def _checksum(key: bytes, columns: Columns) -> int:
    check = zlib.crc32(key)
    for name in sorted(columns):
        check = zlib.crc32(columns[name].contiguous().numpy().data, check)
    return check
