"""JSON lines, read as a stream with errors that name file and line, written whole or not at all."""

from __future__ import annotations

import itertools
import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError
from dust2gold.core.files import open_text, write_atomically

_LONGEST = 1 << 26
"""Characters of a line: what is longer is no record, and need not fit into memory."""


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for each non-empty line of a `.jsonl`, `.jsonl.gz` or `.jsonl.xz` file."""
    with open_text(path) as stream:
        for number in itertools.count(1):
            try:
                if not (line := stream.readline(_LONGEST + 1)):
                    return
            except UnicodeDecodeError as error:
                remedy = "convert it, e.g. with iconv"
                raise InputError(f"not UTF-8 ({error.reason})", file=path, line=number, remedy=remedy) from error
            except (EOFError, OSError, lzma.LZMAError) as error:
                problem = f"the compressed file is damaged ({error})"
                raise InputError(problem, file=path, line=number, remedy="fetch it again") from error
            if len(line) > _LONGEST:
                remedy = "write one object a line; check that this is the file you meant"
                raise InputError(f"longer than {_LONGEST:,} characters", file=path, line=number, remedy=remedy)
            if line.strip():
                yield number, _parse(line, path, number)


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        remedy = "mend or remove this line"
        raise InputError(f"malformed JSON ({error})", file=path, line=number, remedy=remedy) from error
    if not isinstance(value, dict):
        remedy = 'each line must be one object: {"field": ...}'
        problem = f"a JSON object was expected, found {type(value).__name__}"
        raise InputError(problem, file=path, line=number, remedy=remedy)
    return value


def count_lines(path: Path) -> int | None:
    """How many lines a file has, for a progress bar; None where that cannot be found out: reading it will say why."""
    try:
        with open_text(path) as stream:
            chunks = iter(lambda: stream.buffer.read(1 << 20), b"")
            counts = [(chunk.count(b"\n"), chunk.endswith(b"\n")) for chunk in chunks]
            return sum(count for count, _ in counts) + (not counts[-1][1] if counts else 0)
    except (EOFError, OSError, lzma.LZMAError):
        return None


def write_json_lines(path: Path, objects: Iterable[dict[str, Any]]) -> int:
    """Writes one object a line, whole or not at all, and returns how many were written."""
    count = 0
    with write_atomically(path) as stream:
        for value in objects:
            stream.write(json.dumps(value, ensure_ascii=False) + "\n")
            count += 1
    return count
