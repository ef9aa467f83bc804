"""JSON lines, read as a stream with errors that name file and line, written whole or not at all."""

from __future__ import annotations

import codecs
import itertools
import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError
from dust2gold.core.files import open_text, write_atomically

_LONGEST = 1 << 26
"""Bytes of a line: what is longer is no record, and need not fit into memory."""
_FOREIGN = {
    b"PAR1": ("Parquet", "let its name end in .parquet, and make records of it with `prepare`"),
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
    b"\x1f\x8b": ("gzip", "let its name end in .jsonl.gz"),
    b"\xfd7zXZ\x00": ("xz", "let its name end in .jsonl.xz"),
    b"\x28\xb5\x2f\xfd": ("zstandard", "let its name end in .jsonl.zst"),
    b"[": ("a JSON array", "let its name end in .json for `prepare`, or write one object a line: jq -c '.[]'"),
}
"""What files begin with that are no JSON lines, what they are, and what to do."""


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for each non-empty line of a file that `open_text` reads."""
    with open_text(path) as stream:
        for number in itertools.count(1):
            try:  # as bytes: a text stream decodes ahead, and its errors would name the line before
                line = stream.buffer.readline(_LONGEST + 1)
            except (EOFError, OSError, lzma.LZMAError) as error:
                problem = f"the compressed file is damaged ({error})"
                raise InputError(problem, file=path, line=number, remedy="fetch it again") from error
            if not line:
                return
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
                _check_kind(path, line.lstrip())
            if len(line) > _LONGEST:
                remedy = "write one object a line; check that this is the file you meant"
                raise InputError(f"longer than {_LONGEST:,} bytes", file=path, line=number, remedy=remedy)
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                remedy = "convert it, e.g. with iconv"
                raise InputError(f"not UTF-8 ({error.reason})", file=path, line=number, remedy=remedy) from error
            if text.strip():
                yield number, _parse(text, path, number)


def _check_kind(path: Path, beginning: bytes) -> None:
    """Refuses a file that is something else than JSON lines, and says what."""
    kinds = [found for begins, found in _FOREIGN.items() if beginning.startswith(begins)]
    if path.suffix in (".csv", ".tsv") and not beginning.startswith(b"{"):
        kinds.append(("a table of text", "make records of it with `prepare --columns`, which reads .csv"))
    if kinds:
        kind, remedy = kinds[0]
        raise InputError(f"is {kind}, and JSON lines were expected", file=path, remedy=remedy)


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
