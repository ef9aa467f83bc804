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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import write_json_lines

PREFIX = "hub:"


@dataclass(frozen=True)
class HubTable:
    """A split of a data set on a hub."""

    name: str  # its name there, or a local directory
    subsets: tuple[str, ...] = ()  # "configs" of the library, one after another; none: the one it has
    split: str = "test"
    revision: str | None = None  # branch, tag or commit; None for the newest

    @property
    def file_name(self) -> str:
        """What the fetched rows are kept as: `openai--gsm8k-main-test.jsonl`."""
        parts = [self.name.strip("./").replace("/", "--"), *self.subsets, self.split]
        return re.sub(r"[^\w.+-]", "_", "-".join(parts)) + ".jsonl"

    def fetch(self, directory: Path) -> Path:
        """Writes the rows into `directory`, whole or not at all, and returns the file."""
        path = directory / self.file_name
        rows = (row for subset in self.subsets or (None,) for row in self._rows(subset, path))
        count = write_json_lines(path, rows)
        print(f"{count:,} rows of {PREFIX}{self.name} in {path}")
        return path

    def _rows(self, subset: str | None, kept: Path) -> Iterator[dict[str, Any]]:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

        name = str(Path(self.name).resolve()) if Path(self.name).is_dir() else self.name  # which names its cache
        try:
            table = load_dataset(name, subset, split=self.split, revision=self.revision)
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(said[:300], file=PREFIX + self.name, remedy=_remedy(error, kept)) from error
        for row in table:
            yield dict(row)


def _remedy(error: Exception, kept: Path) -> str:
    if isinstance(error, ValueError):
        return "choose with --split and --subset"
    if isinstance(error, RuntimeError):
        return "its hub may hold it as parquet too: --revision refs/convert/parquet"
    if isinstance(error, ConnectionError):
        earlier = f"{kept}, fetched earlier," if kept.is_file() else "a copy of the file"
        return f"check the network and HF_HUB_OFFLINE, or read {earlier} with --input FILE"
    return "check the name: owner/name as on the hub, or a directory"


def hub_table(input: str, subsets: Sequence[str], split: str | None, revision: str | None) -> HubTable | None:
    """What `--input`, `--subset`, `--split` and `--revision` name; None for a plain file."""
    if input.startswith(PREFIX):
        name = input[len(PREFIX) :]
        if not name:
            raise InputError("no name", field="--input", remedy="give one as hub:openai/gsm8k")
        return HubTable(name, tuple(subsets), split or "test", revision)
    for option, value in (("--subset", subsets), ("--split", split), ("--revision", revision)):
        if value:
            raise InputError("is for data sets of a hub", field=option, remedy="give --input hub:NAME, or leave it out")
    return None
