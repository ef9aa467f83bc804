"""Records under keys in append-only files: read through a memory map, checked when opened, shared by processes.

Every process appends to a part of its own, `part-0.bin`, `part-1.bin`, ..., and reads all parts there are. A record is

    key (16 bytes) · rows (uint32) · CRC-32 of all the rest (uint32) · rows × row_bytes bytes

A process that is killed leaves a record's beginning behind; whoever takes the part next cuts it off and goes on.
"""

from __future__ import annotations

import fcntl
import mmap
import struct
import sys
import zlib
from io import BufferedRandom
from itertools import count
from pathlib import Path
from typing import cast

from tqdm import tqdm

from foundation.errors import InputError
from foundation.files import open_in_place

_HEAD = struct.Struct("<16sII")


class RecordStore:
    """The parts of one directory.

    Args:
        directory: Made if missing.
        row_bytes: Bytes of one row; the same in all records of a directory.

    Raises:
        InputError: If the directory cannot be written.
    """

    def __init__(self, directory: Path, row_bytes: int) -> None:
        self.directory = directory
        self.row_bytes = row_bytes
        self._parts: dict[Path, _Part] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            own, self._file = self._claim()
            self.refresh()
            self._cut(own)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._own = self._parts[own]

    def __len__(self) -> int:
        """Number of records, of all parts."""
        return len({key for part in self._parts.values() for key in part.places})

    def __contains__(self, key: bytes) -> bool:
        return any(key in part.places for part in self._parts.values())

    def get(self, key: bytes) -> tuple[int, memoryview]:
        """A record's number of rows and its bytes, mapped from the file.

        Raises:
            KeyError: If there is none.
        """
        for part in self._parts.values():
            if key in part.places:
                return part.read(key)
        raise KeyError(key.hex())

    def add(self, key: bytes, rows: int, payload: bytes) -> None:
        """Appends a record to this process's part.

        Raises:
            InputError: If the disk is full.
            ValueError: If the payload's length is not rows × row_bytes.
        """
        if len(payload) != rows * self.row_bytes:
            raise ValueError(f"{len(payload)} bytes for {rows} rows of {self.row_bytes}")
        try:
            self._file.write(_HEAD.pack(key, rows, _checksum(key, rows, payload)) + payload)
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from error
        self._own.append(key, rows)

    def refresh(self) -> None:
        """Reads what other processes have written since."""
        for path in sorted(self.directory.glob("part-*.bin")):
            part = self._parts.setdefault(path, _Part(path, self.row_bytes))
            part.scan()

    def close(self) -> None:
        """Gives up this process's part."""
        self._file.close()

    def _claim(self) -> tuple[Path, BufferedRandom]:
        """The first part that no living process writes to."""
        for number in count():
            path = self.directory / f"part-{number}.bin"
            file = cast(BufferedRandom, open_in_place(path, "r+b"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                return path, file
        raise AssertionError("count() has no end")

    def _cut(self, own: Path) -> None:
        """Cuts off what follows this part's last whole record, and goes to its end."""
        end = self._parts[own].end
        torn = self._file.seek(0, 2) - end
        if torn and not self._parts[own].damaged:  # which has been said
            print(f"warning: {own}: cut off {torn:,} bytes after the last whole record", file=sys.stderr)
        self._file.truncate(end)
        self._file.seek(0, 2)

    def _cannot_write(self, error: OSError) -> InputError:
        return InputError(
            f"cannot write ({error.strerror or error})", file=self.directory,
            remedy="free some space, or choose another place",
        )  # fmt: skip


class _Part:
    """One file: where its records lie, and a map of it."""

    def __init__(self, path: Path, row_bytes: int) -> None:
        self.path = path
        self.row_bytes = row_bytes
        self.places: dict[bytes, tuple[int, int]] = {}  # key → (offset of the rows, their number)
        self.end = 0
        self._map: mmap.mmap | None = None
        self.damaged = False

    def scan(self) -> None:
        """Finds the records beyond those it knows, up to the first that is not whole."""
        size = self.path.stat().st_size
        if size <= self.end or self.damaged:
            return
        self._remap()
        with tqdm(total=size - self.end, desc=f"check {self.path.name}", unit="B", unit_scale=True, delay=2) as bar:
            while record := self._next(size):
                bar.update(_HEAD.size + record[1] * self.row_bytes)
                self.append(*record)

    def append(self, key: bytes, rows: int) -> None:
        """Notes a record that begins at `end`."""
        self.places[key] = self.end + _HEAD.size, rows
        self.end += _HEAD.size + rows * self.row_bytes

    def read(self, key: bytes) -> tuple[int, memoryview]:
        offset, rows = self.places[key]
        stop = offset + rows * self.row_bytes
        if self._map is None or len(self._map) < stop:
            self._remap()
        assert self._map is not None
        return rows, memoryview(self._map)[offset:stop]

    def _next(self, size: int) -> tuple[bytes, int] | None:
        start = self.end + _HEAD.size
        if start > size or self._map is None:
            return None
        key, rows, checksum = _HEAD.unpack(self._map[self.end : start])
        stop = start + rows * self.row_bytes
        if stop > size:  # being written, or left so by a kill
            return None
        if _checksum(key, rows, memoryview(self._map)[start:stop]) != checksum:
            self.damaged = True
            print(
                f"{self.path}: damaged after {len(self.places):,} records; what stood behind is computed again",
                file=sys.stderr,
            )
            return None
        return key, rows

    def _remap(self) -> None:
        with self.path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # the old map goes with its last reader


def _checksum(key: bytes, rows: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(key + struct.pack("<I", rows)))
