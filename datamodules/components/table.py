"""Rationales of a file as a table of token ids (Arrow), in a file mapped into memory: a temporary one, or one kept.

    table = open_table(load_tokenizer("embedded"), Path("positive.jsonl"), Path("encoded"))
    examples = Examples(table)
    train, held = examples.split(0.05)              # by the question's id
    train.lengths, train.take([3, 17])              # a column of all, two whole examples

A table depends on the file's contents, the tokenizer and the prompt alone, which its key hashes: limits on the length
choose among its rows (`limits`).
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from datamodules.components.encoding.prompts import PLAIN, Prompt
from datamodules.components.encoding.tokenization import encode
from datamodules.components.encoding.tokenizer_identity import TokenizerIdentity
from datamodules.components.records.records import Rationale, Verdict
from dust2gold.core.errors import InputError
from dust2gold.core.files import open_text, sha256_of, write_directory_atomically
from dust2gold.core.jsonl import count_lines, read_json_lines
from dust2gold.core.provenance import Provenance

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "question_id": pa.string(),
        "writer": pa.string(),
        "verdict": pa.string(),
        "answer": pa.string(),  # as it is written; null where there is none
        "line": pa.int64(),  # in the file, from 1
        "characters": pa.int64(),  # of question and rationale
        "length": pa.int64(),  # in tokens, prompt and EOS included
        "prompt": pa.int64(),  # how many of the tokens are the prompt's
        "tokens": pa.list_(pa.int32()),
    }
)
TABLE_FILE, PROVENANCE_FILE = "table.arrow", "made-from.json"
_CHUNK = 1024
"""Rationales encoded together, and written as one batch of the Arrow stream."""


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded rationale."""

    id: str
    question_id: str
    positive: bool
    tokens: list[int]  # BOS (where the tokenizer has one), prompt, rationale and EOS
    prompt: int  # how many of the tokens stand before the rationale


class Examples:
    """Some rows [n] (int64; default: all) of a table of `SCHEMA`."""

    def __init__(self, table: Dataset, rows: Tensor | None = None) -> None:
        self.table = table
        self.rows = torch.arange(len(table)) if rows is None else rows

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """The examples of several tables, one after another."""
        from datasets import concatenate_datasets

        if len(parts) == 1:
            return parts[0]
        starts = torch.tensor([0, *(len(part.table) for part in parts[:-1])]).cumsum(0).tolist()
        rows = torch.cat([part.rows + start for part, start in zip(parts, starts, strict=True)])
        return cls(concatenate_datasets([part.table for part in parts]), rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Example:
        return self.take([number])[0]

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def take(self, numbers: Sequence[int]) -> list[Example]:
        """Whole examples, by their numbers among these."""
        if not len(numbers):
            return []
        found = self.table[self.rows[torch.as_tensor(numbers)].tolist()]
        positive = [verdict == "positive" for verdict in found["verdict"]]
        columns = found["id"], found["question_id"], positive, found["tokens"], found["prompt"]
        return [Example(*values) for values in zip(*columns, strict=True)]

    def where(self, mask: Tensor) -> Examples:
        """Those at which `mask` [n] bool is true."""
        return Examples(self.table, self.rows[mask])

    def split(self, fraction: float) -> tuple[Examples, Examples]:
        """(the others, those of a share of the questions), chosen by a hash of the question's id."""
        held = torch.tensor([held_out(name, fraction) for name in self.question_ids], dtype=torch.bool)
        return self.where(~held), self.where(held)

    def numbers(self, name: str) -> Tensor:
        """A column of integers [n] int64."""
        return torch.tensor(self._column(name).to_numpy(), dtype=torch.int64)[self.rows]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each [n] int64, prompt and EOS included."""
        return self.numbers("length")

    @property
    def largest_ids(self) -> Tensor:
        """The largest token id of each [n] int64."""
        largest = [max(ids) for chunk in self._column("tokens").chunks for ids in chunk.to_pylist()]
        return torch.tensor(largest, dtype=torch.int64)[self.rows]

    @property
    def question_ids(self) -> list[str]:
        """Whose rationale each is."""
        names = self._column("question_id").to_pylist()
        return [names[row] for row in self.rows.tolist()]

    @property
    def positive(self) -> Tensor:
        """Which are right [n] bool."""
        return self.has_verdict("positive")

    def targets(self, loss_on_prompt: bool = False) -> Tensor:
        """Tokens of each that are predicted [n] int64: all but the first, or those after the prompt."""
        return self.lengths - (1 if loss_on_prompt else self.numbers("prompt").clamp_min(1))

    def has_verdict(self, verdict: Verdict) -> Tensor:
        """Which have it [n] bool."""
        found = [each == verdict for each in self._column("verdict").to_pylist()]
        return torch.tensor(found, dtype=torch.bool)[self.rows]

    def _column(self, name: str) -> Any:
        return self.table.data.column(name)


def held_out(question_id: str, fraction: float) -> bool:
    """Whether a question belongs to the validation split: decided by its id alone, whatever else is in the file."""
    drawn = int.from_bytes(hashlib.blake2b(question_id.encode(), digest_size=8).digest(), "big")
    return drawn < fraction * 2**64


def open_table(
    tokenizer: PreTrainedTokenizerBase, file: Path, directory: Path | None = None, prompt: Prompt = PLAIN
) -> Dataset:
    """The table of a file of rationales, mapped from `directory`, where it is made if need be.

    Of processes that ask at the same time one makes it, and the others wait. A damaged table is made again. Without a
    directory each process makes its own, in a temporary file that has no name any more when this returns.

    Raises:
        InputError: If the file is missing or damaged, or the directory cannot be written.
    """
    from datasets import Dataset
    from datasets.table import InMemoryTable

    if directory is None:  # a fingerprint of its own, or `datasets` would copy the whole to hash it
        return Dataset(InMemoryTable.from_buffer(_temporary(tokenizer, file, prompt)), fingerprint=uuid.uuid4().hex)
    made_from = _provenance(tokenizer, file, prompt)
    target = directory / made_from.key
    if not _is_sound(target):
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / f".{target.name}.lock"):
            if not _is_sound(target):  # no other process has made it meanwhile
                _make(tokenizer, file, target, made_from, prompt)
    return Dataset.from_file(str(target / TABLE_FILE))


def _temporary(tokenizer: PreTrainedTokenizerBase, file: Path, prompt: Prompt) -> pa.Buffer:
    """A whole table in a temporary file, mapped; the file's space is free again once nobody uses the buffer."""
    try:
        with tempfile.NamedTemporaryFile(prefix="dust2gold-") as stream:
            _write(tokenizer, file, stream, prompt)
            stream.flush()
            return pa.memory_map(stream.name).read_buffer()
    except OSError as error:
        problem = f"cannot write a temporary file ({error.strerror or error})"
        remedy = "set TMPDIR to a directory with space, or give --data.encoded DIRECTORY"
        raise InputError(problem, file=file, remedy=remedy) from error


def _provenance(tokenizer: PreTrainedTokenizerBase, file: Path, prompt: Prompt) -> Provenance:
    with open_text(file):  # tells of a missing one
        pass
    facts = {
        "schema": str(SCHEMA),
        "file": sha256_of(file),  # whole, however large: a changed verdict is one word
        "prompt": prompt.key,
        "traces": prompt.cut_traces,
        "tokenizer": TokenizerIdentity.of(tokenizer.name_or_path, tokenizer).ids,
    }
    return Provenance.of(facts, libraries=("tokenizers", "transformers"))


def _is_sound(target: Path) -> bool:
    """Whether a whole table lies there, as it was written."""
    try:
        noted = json.loads((target / PROVENANCE_FILE).read_text(encoding="utf-8"))
        return bool(noted["sha256"] == sha256_of(target / TABLE_FILE))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make(tokenizer: PreTrainedTokenizerBase, file: Path, target: Path, made_from: Provenance, prompt: Prompt) -> None:
    if target.exists():
        print(f"{target} is damaged: encoding {file} again", file=sys.stderr)
    with write_directory_atomically(target) as part:
        with (part / TABLE_FILE).open("wb") as stream:
            _write(tokenizer, file, stream, prompt)
        noted = {"sha256": sha256_of(part / TABLE_FILE), "file": file.name, "facts": dict(made_from.facts)}
        (part / PROVENANCE_FILE).write_text(json.dumps(noted, indent=2) + "\n", encoding="utf-8")


def _write(tokenizer: PreTrainedTokenizerBase, file: Path, sink: Any, prompt: Prompt) -> None:
    """Encodes a file into an Arrow stream; no more than a chunk of it is held at a time."""
    values = read_json_lines(file)
    # The bar is closed before an error is told: cleared later, it would write behind the message.
    with (
        pa.ipc.new_stream(sink, SCHEMA) as writer,
        tqdm(total=count_lines(file), desc=f"encode {file.name}", leave=False, unit="") as bar,
    ):
        while chunk := [(line, Rationale.from_json(value, file, line)) for line, value in islice(values, _CHUNK)]:
            encodings = encode(tokenizer, [(r.question, r.rationale) for _, r in chunk], prompt)
            columns: dict[str, list[Any]] = {
                "id": [r.id for _, r in chunk],
                "question_id": [r.question_id for _, r in chunk],
                "writer": [r.writer for _, r in chunk],
                "verdict": [r.verdict for _, r in chunk],
                "answer": [r.answer for _, r in chunk],
                "line": [line for line, _ in chunk],
                "characters": [len(r.question) + len(prompt.written(r.rationale)) for _, r in chunk],
                "length": [len(asked) + len(rest) for asked, rest in encodings],
                "prompt": [len(asked) for asked, _ in encodings],
                "tokens": [asked + rest for asked, rest in encodings],
            }
            writer.write_batch(pa.RecordBatch.from_pydict(columns, SCHEMA))
            bar.update(len(chunk))
