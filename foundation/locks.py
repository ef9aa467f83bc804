"""One process at a time at the same files."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO, Any

from foundation.files import open_in_place


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
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.close()
                break
            except OSError:  # no locks here: then it is up to the user
                pass
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
