"""One process at a time at the same files, where the file system has locks; where it has none, a warning."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import io
import os
import sys
from pathlib import Path
from typing import IO, Any

from dust2gold.core.files import open_in_place

_NONE_HERE = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""How a file system says that it has no locks: some mounts of Lustre, NFS, 9p and FUSE."""


def hold(stream: IO[Any] | io.FileIO, *, wait: bool = False) -> bool:
    """Locks an open file until it is closed; the kernel drops the lock with the last process that has it open.

    Args:
        stream: The file.
        wait: Whether to wait while another process holds it.

    Returns:
        Whether it is held. False where the file system has no locks, which is said on stderr the first time: what must
        not collide then needs names of its own.

    Raises:
        BlockingIOError: If another process holds it, unless `wait`.
        OSError: If the locking fails in another way.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NONE_HERE:
            raise
        _warn()
        return False
    return True


@functools.cache
def _warn() -> None:
    """Warns, once in a process."""
    print(
        "warning: the file system has no locks: see to it that no two commands write to the same files", file=sys.stderr
    )


class Lock:
    """A lock file, held until `release` or the end of the process, however it comes; on release it is removed.

    On a file system without locks it is always free.

    Args:
        path: The file; its directory must be there.

    Attributes:
        free: Whether it was free, and is held now.

    Raises:
        InputError: If the file is a link.
        OSError: If it cannot be made.
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
            stream.close()  # its last holder has removed it meanwhile
        self.free = self._stream is not None

    def release(self) -> None:
        """Gives it up, if it is held."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self._stream.close()
            self._stream = None
