"""File locks: one process at a time works on the same files. The kernel drops the lock of a killed process."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import socket
from datetime import datetime
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


def claim(path: Path, who: str, remedy: str) -> IO[Any]:
    """Locks a file, which it makes, until it is closed; in it stands which process holds it, where and since when.

    Raises:
        InputError: If another process holds it (says which, and the remedy), it is a link, or cannot be locked.
        OSError: If it cannot be opened.
    """
    with contextlib.suppress(FileExistsError):  # a file: opening tells
        path.parent.mkdir(parents=True, exist_ok=True)
    stream = open_in_place(path, "a+")
    try:
        hold(stream)
    except BlockingIOError as error:
        stream.close()
        holder = path.read_text(encoding="utf-8").strip() or "one that has just begun"
        raise InputError(f"{who} is at work here: {holder}", file=path, remedy=remedy) from error
    stream.truncate(0)
    stream.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}\n")
    stream.flush()
    return stream
