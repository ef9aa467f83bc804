"""Files and directories that are written whole or not at all, and read whatever their compression."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import lzma
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

from foundation.errors import InputError


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[TextIO]:
    """Opens a temporary neighbour of `path` for UTF-8 text and moves it into place when the block ends well.

    On an exception the temporary file is removed and whatever stood at `path` stays.

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
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
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

    An older directory at `path` is kept until the new one is complete.

    Args:
        path: The directory.
        replace: Whether it replaces one that is there by then; otherwise the new one is given up.

    Raises:
        InputError: If the directory cannot be written or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        temporary.chmod(0o755)
        yield temporary
        for file in temporary.rglob("*"):  # safetensors makes its files for the owner alone
            file.chmod(0o755 if file.is_dir() else 0o644)
        if not replace:
            _rename_unless_there(temporary, path)
        elif path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write ({error.strerror or error})", file=path, remedy="free some space or choose another output"
        ) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary)


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
