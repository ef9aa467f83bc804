"""Rows of a data set as a stream: from JSON lines, a JSON array, CSV, Parquet or a folder of `save_to_disk`.

A row comes with its number from 1: the line of a text file, else its place.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError, reason
from dust2gold.core.files import open_text
from dust2gold.core.jsonl import count_lines, read_json_lines

Rows = Iterator[tuple[int, dict[str, Any]]]

_COMPRESSED = (".gz", ".xz", ".zst")
_SAVED = ("state.json", "dataset_dict.json")
"""What `save_to_disk` leaves in the folder of a data set, and of several splits."""
_TOGETHER = 64  # rows decoded at a time
_LARGEST = 1 << 26  # characters of a cell


def read_rows(path: Path) -> Rows:
    """Yields the rows of a file or folder; what its name does not say is read as JSON lines.

    Raises:
        InputError: If there is no such file, or it is damaged or something else than its name says.
    """
    return _READERS.get(_kind(path), read_json_lines)(path)


def count_rows(path: Path) -> int | None:
    """How many rows a progress bar waits for; None where only reading tells."""
    return None if _kind(path) in _READERS else count_lines(path)


def is_folder(path: Path) -> bool:
    """Whether this is what `save_to_disk` writes."""
    return any((path / name).is_file() for name in _SAVED)


def _kind(path: Path) -> str:
    if is_folder(path):
        return "folder"
    return (path.with_suffix("") if path.suffix in _COMPRESSED else path).suffix


def _json(path: Path) -> Rows:
    """A JSON array, read whole; a file that begins otherwise holds JSON lines, as many of this name do."""
    try:
        with open_text(path) as stream:
            beginning = stream.read(1 << 12)
            if not beginning.lstrip().startswith("["):
                yield from read_json_lines(path)
                return
            values = json.loads(beginning + stream.read())
    except (ValueError, RecursionError, EOFError, OSError) as error:
        raise _damaged(path, "a JSON array", error) from error
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            problem = f"a JSON object was expected, found {type(value).__name__}"
            raise InputError(problem, file=path, line=number, remedy='each entry must be one object: {"column": ...}')
        yield number, value


def _csv(path: Path) -> Rows:
    """CSV with the columns' names in its first line; every cell is a text."""
    csv.field_size_limit(_LARGEST)
    with open_text(path) as stream:
        rows, line = csv.DictReader(stream, strict=True), 1
        while True:
            try:
                columns, line = rows.fieldnames or [], rows.line_num + 1
                row = next(rows, None)
            except (csv.Error, ValueError, EOFError, OSError) as error:
                raise _damaged(path, "CSV in UTF-8", error, line) from error
            if row is None:
                return
            if None in row or None in row.values():
                remedy = "put a cell that holds a comma or a line break into double quotes"
                raise InputError(
                    f"another number of cells than the {len(columns)} columns", file=path, line=line, remedy=remedy
                )
            yield line, row


def _parquet(path: Path) -> Rows:
    from pyarrow import parquet

    open_text(path).close()  # tells of a missing file
    try:
        # Without pre_buffer a group of rows, which may be all there are, is never whole in memory.
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as file:
            yield from _numbered(file.iter_batches(_TOGETHER))
    except (ValueError, OSError) as error:
        raise _damaged(path, "Parquet", error) from error


def _folder(path: Path) -> Rows:
    from datasets import Dataset, load_from_disk

    try:
        saved = load_from_disk(path)
        if not isinstance(saved, Dataset):
            splits, first = ", ".join(map(str, saved)), path / str(next(iter(saved), "SPLIT"))
            raise InputError(f"holds several splits ({splits})", file=path, remedy=f"give one: {first}")
        yield from _numbered(saved.with_format("arrow").iter(_TOGETHER))
    except (ValueError, KeyError, OSError) as error:
        raise _damaged(path, "a folder of save_to_disk", error) from error


def _numbered(batches: Iterable[Any]) -> Rows:
    return enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _damaged(path: Path, kind: str, error: Exception, line: int | None = None) -> InputError:
    remedy = "check that this is the file you meant, and fetch it again"
    return InputError(f"not readable as {kind} ({reason(error)[:200]})", file=path, line=line, remedy=remedy)


_READERS: dict[str, Callable[[Path], Rows]] = {".csv": _csv, ".json": _json, ".parquet": _parquet, "folder": _folder}
