"""File locks: one process at a time works on the same files. The kernel drops the lock of a killed process."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from pathlib import Path
from typing import IO, Any

from dust2gold.core.errors import InputError
from dust2gold.core.files import open_in_place


def hold(stream: IO[Any] | io.FileIO) -> None:
    """Locks an open file until the last process that has it open closes it.

    Raises:
        BlockingIOError: If another process holds it.
        InputError: If the file cannot be locked: some mounts of Lustre, NFS, 9p and FUSE have no locks.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise InputError(
            f"cannot be locked ({error.strerror or error})",
            file=stream.name if isinstance(stream.name, str | os.PathLike) else None,
            remedy="use a directory on a file system with locks: a local disk, or a mount with the option flock",
        ) from error


class Lock:
    """A lock file, held until `release` or the end of the process; `release` removes the file.

    Attributes:
        free: Whether the lock was free and is held now.

    Raises:
        InputError: If the file is a link, or cannot be locked.
        OSError: If it cannot be created: its directory must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: IO[Any] | None = None
        while True:
            stream = open_in_place(path, "a")
            try:
                hold(stream)
            except BlockingIOError:
                stream.close()
                break
            if path.exists() and path.stat().st_ino == os.fstat(stream.fileno()).st_ino:
                self._stream = stream
                break
            stream.close()  # another process has released it in between, and removed the file
        self.free = self._stream is not None

    def release(self) -> None:
        """Releases the lock if it is held."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self._stream.close()
            self._stream = None
