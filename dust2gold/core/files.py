"""Files: written whole or not at all, read whatever their compression, hashed."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

from safetensors import SafetensorError

from dust2gold.core.errors import InputError


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[TextIO]:
    """Opens a temporary file for UTF-8 text and moves it to `path` when the block ends well.

    On an exception whatever stood at `path` stays. What a killed process has left is removed by the next write.
    A directory that cannot be written and a full disk are an `InputError`.
    """
    with _replacing(path) as binary:
        yield (stream := io.TextIOWrapper(binary, encoding="utf-8"))
        stream.flush()


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Writes a JSON value and a line break as `write_atomically` does."""
    with write_atomically(path) as stream:
        json.dump(value, stream, indent=indent, ensure_ascii=False)
        stream.write("\n")


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Writes bytes as `write_atomically` writes text."""
    with _replacing(path) as stream:
        stream.write(content)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    with _work_directory(path) as work:
        new = work / "new"
        with new.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        new.chmod(0o644)
        new.replace(path)


@contextlib.contextmanager
def write_directory_atomically(path: Path) -> Iterator[Path]:
    """Yields an empty temporary directory that takes the place of `path` when the block ends well.

    An older directory at `path` is renamed into the temporary one and removed once the new one stands. A process killed
    between the two renames leaves both in `.<name>.*.part`; `recover`, and the next write, put the older one back.
    """
    with _work_directory(path) as work:
        new = work / "new"
        new.mkdir()
        yield new
        new.chmod(0o755)
        for file in new.rglob("*"):  # safetensors makes its files for the owner alone
            file.chmod(0o755 if file.is_dir() else 0o644)
        if os.path.lexists(path):
            path.rename(work / "old")
        new.rename(path)


@contextlib.contextmanager
def _work_directory(path: Path) -> Iterator[Path]:
    """Yields a temporary directory beside `path`, locked so that no other process takes it for one left by a crash."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            recover(path)
            work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
            stack.callback(_put_back_and_remove, work, path)
            # Under its final name the lock file is never free while its process lives
            lock = stack.enter_context((work / "unlocked").open("w"))
            with contextlib.suppress(OSError):  # without locks left-over directories are not removed
                fcntl.flock(lock, fcntl.LOCK_EX)
                (work / "unlocked").rename(work / "lock")
            yield work
        except (OSError, SafetensorError) as error:  # of a full disk safetensors makes an error of its own, no OSError
            problem = f"cannot write ({getattr(error, 'strerror', None) or error})"
            raise InputError(problem, file=path, remedy="free some space or choose another output") from error


def recover(path: Path) -> None:
    """Removes what killed processes have left of their writing to `path`, and puts back what they had moved away."""
    ours = re.compile(re.escape(f".{path.name}.") + r"[a-z0-9_]{8}\.part")
    for left in [each for each in path.parent.iterdir() if ours.fullmatch(each.name) and not each.is_symlink()]:
        with contextlib.suppress(OSError), (left / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _put_back_and_remove(left, path)


def _put_back_and_remove(work: Path, path: Path) -> None:
    """Removes a temporary directory; a directory it has replaced goes back to `path` if there is no new one."""
    if not os.path.lexists(path) and os.path.lexists(work / "old"):
        (work / "old").rename(path)
    shutil.rmtree(work, ignore_errors=True)


def open_in_place(path: Path, mode: str, buffering: int = -1) -> IO[Any]:
    """Opens a file to be written in place (`a`, `w`, or `r+b`, which also creates it); text is UTF-8.

    Raises:
        InputError: If it is a link, which could lead out of the directory.
        OSError: As `open`.
    """
    if path.is_symlink():
        raise InputError("is a link, and would lead the writing elsewhere", file=path, remedy="remove the link")

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)

    return open(path, mode, buffering, encoding=None if "b" in mode else "utf-8", opener=opener)


def free_aside(path: Path, stem: str = "aside") -> Path:
    """The path with `<stem>-<k>` instead of its own stem, with the first k that is not in use."""
    number = 1
    while (aside := path.with_name(f"{stem}-{number}{path.suffix}")).exists():
        number += 1
    return aside


def keep_inputs(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Refuses outputs that are one of the inputs, by whatever name or link.

    Raises:
        InputError: If writing would replace what is read.
    """
    written = [path for path in outputs if path.exists()]
    for read in inputs:
        if read.exists() and any(path.samefile(read) for path in written):
            remedy = "choose another --output"
            raise InputError("is read and would be replaced by the result", file=read, field="--output", remedy=remedy)


def as_paths(files: list[str] | str | None) -> list[Path]:
    """One file, several or none, as a list of paths."""
    return [Path(file) for file in ([files] if isinstance(files, str) else files or [])]


def open_text(path: Path) -> TextIO:
    """Opens a text file for reading as UTF-8, with or without a BOM, by its name: plain, `.gz`, `.xz` or `.zst`.

    Raises:
        InputError: If there is none, or what is there is no file.
    """
    if not path.is_file():
        remedy = "check the path; relative paths start at the working directory"
        if path.is_fifo():
            remedy = "write it into a file first: inputs are read more than once"
        kinds = {"directory": path.is_dir, "pipe": path.is_fifo, "socket": path.is_socket, "device": path.exists}
        kind = next((kind for kind, holds in kinds.items() if holds()), None)
        raise InputError(f"is a {kind}, not a file" if kind else "no such file", file=path, remedy=remedy)
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig"))
    if path.suffix == ".xz":
        return cast(TextIO, lzma.open(path, "rt", encoding="utf-8-sig"))
    if path.suffix == ".zst":
        from pyarrow import CompressedInputStream

        return io.TextIOWrapper(io.BufferedReader(CompressedInputStream(path, "zstd")), encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def sha256_of(path: Path) -> str:
    """SHA-256 of all of a file's bytes, in hexadecimal: a checksum. What a product was made from: provenance.py."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
