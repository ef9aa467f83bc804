"""Data sets from a hub by name, as `prepare --input hub:openai/gsm8k`: fetched with `datasets`, kept as JSON lines.

Names that fit the readers of this package (`--format`):

    hub:EleutherAI/hendrycks_math  --format math        --subset algebra,counting_and_probability,...
    hub:openai/gsm8k               --format gsm8k       --subset main
    hub:EleutherAI/asdiv           --format asdiv       --split validation
    hub:ChilleD/SVAMP              --format svamp
    hub:ChilleD/MultiArith         --format multiarith

and, by what their cards say of their columns (nobody has tried them here):

    hub:open-r1/OpenR1-Math-220k   --format openr1             --split train
    hub:nvidia/OpenMathInstruct-1  --format openmathinstruct1  --split train
    hub:HuggingFaceH4/MATH-500     --format math500

A local directory that `datasets` understands (parquet, JSON, CSV) works too: `hub:path/to/directory`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError, reason
from dust2gold.core.jsonl import write_json_lines

PREFIX = "hub:"


def input_file(given: str, directory: Path, subsets: Sequence[str], split: str | None, revision: str | None) -> Path:
    """The file or folder that `--input` names: of a hub's data set its rows, fetched into `directory`."""
    if given.startswith(PREFIX):
        return fetch(given.removeprefix(PREFIX), directory, subsets, split or "test", revision)
    for option, value in (("--subset", subsets), ("--split", split), ("--revision", revision)):
        if value:
            raise InputError("is for data sets of a hub", field=option, remedy="give --input hub:NAME, or leave it out")
    return Path(given)


def fetch(
    name: str, directory: Path, subsets: Sequence[str] = (), split: str = "test", revision: str | None = None
) -> Path:
    """Writes the rows of a split into `directory`, whole or not at all, and returns the file.

    `name` is that on the hub, or a local directory; of `subsets` (the library's "configs") one follows another.

    Raises:
        InputError: If the hub cannot be reached, has no such data set, subset or split, or nothing can be written.
    """
    if not name:
        raise InputError("no name", field="--input", remedy="give one as hub:openai/gsm8k")
    parts = [name.strip("./").replace("/", "--"), *subsets, split]
    path = directory / (re.sub(r"[^\w.+-]", "_", "-".join(parts)) + ".jsonl")  # openai--gsm8k-main-test.jsonl
    rows = (row for subset in subsets or (None,) for row in _rows(name, subset, split, revision, path))
    count = write_json_lines(path, rows)
    print(f"{count:,} rows of {PREFIX}{name} in {path}")
    return path


def _rows(name: str, subset: str | None, split: str, revision: str | None, kept: Path) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    place = str(Path(name).resolve()) if Path(name).is_dir() else name  # which names its cache
    try:
        table = load_dataset(place, subset, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise InputError(reason(error)[:300], file=PREFIX + name, remedy=_remedy(error, kept)) from error
    yield from map(dict, table)


def _remedy(error: Exception, kept: Path) -> str:
    if isinstance(error, ValueError):
        return "choose with --split and --subset"
    if isinstance(error, RuntimeError):
        return "its hub may hold it as parquet too: --revision refs/convert/parquet"
    if isinstance(error, ConnectionError):
        earlier = f"{kept}, fetched earlier," if kept.is_file() else "a copy of the file"
        return f"check the network and HF_HUB_OFFLINE, or read {earlier} with --input FILE"
    return "check the name: owner/name as on the hub, or a directory"
