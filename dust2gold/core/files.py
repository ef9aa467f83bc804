"""Files and directories that are written whole or not at all, and read whatever their compression."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

from dust2gold.core.errors import InputError


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[TextIO]:
    """Opens a temporary neighbour of `path` for UTF-8 text and moves it into place when the block ends well.

    On an exception the temporary file is removed and whatever stood at `path` stays. One that a killed process has left
    is removed by the next writing to the same path.

    Raises:
        InputError: If the directory cannot be written or the disk is full.
    """
    with _replacing(path) as binary:
        stream = io.TextIOWrapper(binary, encoding="utf-8", write_through=False)
        yield stream
        stream.flush()


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Writes bytes as `write_atomically` writes text."""
    with _replacing(path) as stream:
        stream.write(content)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path, "part")
        handle, temporary = _claimed(path, "part", _new_file)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)  # before it is closed, which gives up the lock
    except OSError as error:
        raise InputError(
            f"cannot write ({error.strerror or error})", file=path, remedy="free some space or choose another output"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def write_directory_atomically(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yields an empty neighbour directory of `path` that takes its place when the block ends well.

    An older directory at `path` is kept until the new one is complete. They change places in one step where the file
    system can do that; where it cannot, a process killed between two steps leaves the older one in `.<name>.*.old`.

    Args:
        path: The directory.
        replace: Whether it replaces one that is there by then; otherwise the new one is given up.

    Raises:
        InputError: If the directory cannot be written or the disk is full.
    """
    temporary: Path | None = None
    handles: list[int] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path, "part")
        handle, temporary = _claimed(path, "part", _new_directory)
        handles.append(handle)
        temporary.chmod(0o755)
        yield temporary
        for file in temporary.rglob("*"):  # safetensors makes its files for the owner alone
            file.chmod(0o755 if file.is_dir() else 0o644)
        if not replace:
            _rename_unless_there(temporary, path)
        elif not path.exists():
            temporary.replace(path)
        elif not _exchanged(temporary, path):
            handle, old = _claimed(path, "old", _new_directory)
            handles.append(handle)
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old)
        _sweep(path, "old")  # now that there is a whole one in its place
    except OSError as error:
        raise InputError(
            f"cannot write ({error.strerror or error})", file=path, remedy="free some space or choose another output"
        ) from error
    finally:
        if temporary is not None:
            _remove(temporary)
        for handle in handles:
            os.close(handle)


def _new_file(**place: Any) -> tuple[int, str]:
    return tempfile.mkstemp(**place)


def _new_directory(**place: Any) -> tuple[int, str]:
    name = tempfile.mkdtemp(**place)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY), name


def _claimed(path: Path, kind: str, make: Callable[..., tuple[int, str]]) -> tuple[int, Path]:
    """Makes a temporary neighbour, locked so that nobody sweeps it while this process lives, and opened."""
    while True:
        try:
            handle, name = make(prefix=f".{path.name}.", suffix=f".{kind}", dir=path.parent)
        except FileNotFoundError:
            if path.parent.is_dir():  # swept before it was opened
                continue
            raise
        swept = False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # by the one who sweeps it
            swept = True
        except OSError:  # no locks here: then nobody sweeps
            pass
        if not swept and os.path.exists(name):
            return handle, Path(name)
        os.close(handle)


def _sweep(path: Path, kind: str) -> None:
    """Removes what processes that were killed have left of their writing to `path`."""
    ours = re.compile(re.escape(f".{path.name}.") + r"[a-z0-9_]{8}" + re.escape(f".{kind}"))
    with contextlib.suppress(OSError):  # of tidying up nothing depends
        for stale in [each for each in path.parent.iterdir() if ours.fullmatch(each.name)]:
            with contextlib.suppress(OSError):
                _sweep_one(stale)


def _sweep_one(stale: Path) -> None:
    kind = os.O_RDONLY | os.O_DIRECTORY if stale.is_dir() else os.O_RDWR
    handle = os.open(stale, kind | getattr(os, "O_NOFOLLOW", 0))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(stale)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Removes a file, a link or a directory, as far as that is possible; what is left is swept one day."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Lets two paths change places in one step, where the system and the file system can do that."""
    try:
        exchange = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    at_fdcwd, rename_exchange = -100, 2
    return bool(exchange(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0)


def _rename_unless_there(directory: Path, path: Path) -> None:
    try:
        directory.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def open_in_place(path: Path, mode: str) -> IO[Any]:
    """Opens a file that grows where it stands (`a`, `w`, or `r+b`, which makes it too); text is UTF-8.

    A link in its place is refused: the writing would leave the directory.

    Raises:
        InputError: If it is a link.
        OSError: As `open`.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)

    try:
        return open(path, mode, encoding=None if "b" in mode else "utf-8", opener=opener)
    except OSError as error:
        if path.is_symlink():
            raise InputError(
                "is a link, and would lead the writing elsewhere", file=path, remedy="remove the link"
            ) from error
        raise


def set_aside(path: Path) -> Path:
    """Renames a file that would be overwritten to `free_aside`; returns that."""
    return path.rename(free_aside(path))


def free_aside(path: Path) -> Path:
    """The first `aside-<k>` in the place of a file's stem that is not there yet."""
    number = 1
    while (aside := path.with_name(f"aside-{number}{path.suffix}")).exists():
        number += 1
    return aside


def as_paths(files: list[str] | str | None) -> list[Path]:
    """One file, several or none, as a list of paths."""
    return [Path(file) for file in ([files] if isinstance(files, str) else files or [])]


def open_text(path: Path) -> TextIO:
    """Opens a text file for reading as UTF-8 by its name: plain, `.gz` or `.xz`.

    Raises:
        InputError: If the file does not exist or is a directory.
    """
    if not path.is_file():
        problem = "is a directory, not a file" if path.is_dir() else "no such file"
        raise InputError(problem, file=path, remedy="check the path; relative paths start at the working directory")
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8"))
    if path.suffix == ".xz":
        return cast(TextIO, lzma.open(path, "rt", encoding="utf-8"))
    return path.open(encoding="utf-8")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a directory's relative names and bytes in sorted order, in hexadecimal."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
        with file.open("rb") as stream:
            _feed(digest, stream)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, stream: IO[bytes]) -> None:
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
