"""Records under keys in append-only files: found through an index, read through a memory map, shared by processes.

Every process appends to a part of its own, `part-0.bin`, `part-1.bin`, ..., and reads all parts there are. On a file
system without locks, where nobody can tell whose a part is, each process begins a new one of a random name. A part
holds the records' rows one after another, its index `part-0.idx` for each of them, once its rows are written, a head:

    key (16 bytes) · rows (uint32) · CRC-32 of the rows (uint32) · CRC-32 of this head (uint32)

Opening reads the indices alone; rows are checked when they are first asked for. A process that is killed leaves the
beginning of a record behind; whoever takes the part next cuts it off and goes on.
"""

from __future__ import annotations

import mmap
import struct
import sys
import zlib
from io import BufferedRandom
from itertools import count
from pathlib import Path
from typing import cast

from dust2gold.core.errors import InputError
from dust2gold.core.files import open_in_place
from dust2gold.core.locks import hold

_HEAD = struct.Struct("<16sIII")


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
            self._index = open_in_place(own.with_suffix(".idx"), "r+b")
            self.refresh()
            self._cut(own)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._own = self._parts[own]

    def __len__(self) -> int:
        """Number of records, of all parts, those included that turn out damaged when they are asked for."""
        return len({key for part in self._parts.values() for key in part.places})

    def __contains__(self, key: bytes) -> bool:
        """Whether there is a sound record."""
        return any(part.holds(key) for part in self._parts.values())

    def get(self, key: bytes) -> tuple[int, memoryview]:
        """A record's number of rows and its bytes, mapped from the file.

        Raises:
            KeyError: If there is none.
        """
        for part in self._parts.values():
            if part.holds(key):
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
            self._file.write(payload)
            self._file.flush()
            self._index.write(_head(key, rows, zlib.crc32(payload)))
            self._index.flush()
        except OSError as error:
            raise self._cannot_write(error) from error
        self._own.append(key, rows, None)

    def refresh(self) -> None:
        """Reads what other processes have written since."""
        for path in sorted(self.directory.glob("part-*.bin")):
            part = self._parts.setdefault(path, _Part(path, self.row_bytes))
            part.scan()

    def close(self) -> None:
        """Gives up this process's part."""
        self._index.close()
        self._file.close()

    def _claim(self) -> tuple[Path, BufferedRandom]:
        """The first part that no living process writes to."""
        for number in count():
            path = self.directory / f"part-{number}.bin"
            file = cast(BufferedRandom, open_in_place(path, "r+b"))
            try:
                hold(file)
                return path, file
            except BlockingIOError:
                file.close()
        raise AssertionError("count() has no end")

    def _cut(self, own: Path) -> None:
        """Cuts off what follows this part's last whole record, and goes to its end."""
        part = self._parts[own]
        torn = 0
        for file, end in ((self._file, part.end), (self._index, part.indexed)):
            torn += max(0, file.seek(0, 2) - end)
            file.truncate(end)
            file.seek(0, 2)
        if torn and not part.damaged:  # which has been said
            print(f"warning: {own}: cut off {torn:,} bytes after the last whole record", file=sys.stderr)

    def _cannot_write(self, error: OSError) -> InputError:
        return InputError(
            f"cannot write ({error.strerror or error})",
            file=self.directory,
            remedy="free some space, or choose another place",
        )


class _Part:
    """One file: where its records lie, and a map of it."""

    def __init__(self, path: Path, row_bytes: int) -> None:
        self.path = path
        self.row_bytes = row_bytes
        self.places: dict[bytes, tuple[int, int, int | None]] = {}  # offset of the rows, their number, CRC to check yet
        self.end = 0
        self.indexed = 0
        self._map: mmap.mmap | None = None
        self.damaged = False

    def scan(self) -> None:
        """Finds the records beyond those it knows, up to the first that is not whole."""
        index = self.path.with_suffix(".idx")
        if self.damaged or not index.is_file() or index.stat().st_size <= self.indexed:
            return
        with index.open("rb") as stream:
            stream.seek(self.indexed)
            size = self.path.stat().st_size  # after the index was opened: rows are written before their head
            for head in iter(lambda: stream.read(_HEAD.size), b""):
                if not self._take(head, size):
                    break

    def append(self, key: bytes, rows: int, check: int | None) -> None:
        """Notes a record that begins at `end`."""
        self.places[key] = self.end, rows, check
        self.end += rows * self.row_bytes
        self.indexed += _HEAD.size

    def holds(self, key: bytes) -> bool:
        """Whether a record is here and, which is found out once, sound."""
        if key not in self.places:
            return False
        offset, rows, check = self.places[key]
        if check is None:
            return True
        if zlib.crc32(self.read(key)[1]) != check:
            del self.places[key]
            print(f"warning: {self.path}: a damaged record, which is computed again", file=sys.stderr)
            return False
        self.places[key] = offset, rows, None
        return True

    def read(self, key: bytes) -> tuple[int, memoryview]:
        """A record as it stands in the file."""
        offset, rows, _ = self.places[key]
        stop = offset + rows * self.row_bytes
        if offset == stop:
            return rows, memoryview(b"")  # nothing, of which there is no map
        if self._map is None or len(self._map) < stop:
            with self.path.open("rb") as file:  # the old map goes with its last reader
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return rows, memoryview(self._map)[offset:stop]

    def _take(self, head: bytes, size: int) -> bool:
        """Notes the record of a head; False where none can follow."""
        if len(head) < _HEAD.size:  # being written, or left so by a kill
            return False
        key, rows, check, _ = _HEAD.unpack(head)
        if head != _head(key, rows, check):
            self.damaged = True
            index, known = self.path.with_suffix(".idx"), self.indexed // _HEAD.size
            print(f"{index}: damaged after {known:,} records; what stood behind is computed again", file=sys.stderr)
            return False
        if self.end + rows * self.row_bytes > size:
            return False
        self.append(key, rows, check)
        return True


def _head(key: bytes, rows: int, check: int) -> bytes:
    return _HEAD.pack(key, rows, check, zlib.crc32(key + struct.pack("<II", rows, check)))
