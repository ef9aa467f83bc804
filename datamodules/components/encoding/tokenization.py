"""Questions and rationales as token ids, and the padding of ids into batches."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, tee
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.components.encoding.prompts import prompt
from datamodules.components.records.records import Rationale
from dust2gold.core.errors import InputError, reason
from dust2gold.core.students import locate_student

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1024
"""Texts tokenised in one call: the fast tokenizers' cost per call is small only when many share it."""


def load_tokenizer(student: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a student (`embedded`, a directory or a hub name), with a pad token.

    A tokenizer without a pad token pads with EOS; labels are masked by position, never by id, so EOS stays a target. An
    encoder's tokenizer without EOS ends texts with its separator.

    Raises:
        InputError: If there is no tokenizer, or it has neither EOS nor a separator.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            locate_student(student), trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot load the tokenizer ({reason(error)})",
            file=student,
            field="data.tokenizer",
            remedy="give the student's directory, a hub name (with network access), or 'embedded'",
        ) from error
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.eos_token_id is None:
        raise InputError(
            "the tokenizer has no EOS token", file=student, remedy="set eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def context_of(student: str) -> int | None:
    """Most tokens the student's positions reach; None where its config does not say (relative positions).

    Raises:
        InputError: If there is a config, and it cannot be read: without it nobody would know what is too long.
    """
    from transformers import AutoConfig

    located = locate_student(student)
    try:
        config = AutoConfig.from_pretrained(located, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if (file := Path(located, "config.json")).is_file():
            raise InputError(
                f"cannot be read ({reason(error)})", file=file, remedy="mend it, or fetch it again"
            ) from error
        return None  # a tokenizer without a model is enough to make batches
    context: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return context


def eos_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The one EOS id that ends a rationale."""
    return int(tokenizer.eos_token_id)  # load_tokenizer has checked that there is one


def pad_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills padding."""
    return int(tokenizer.pad_token_id)


class Encoded:
    """Token ids of one text, in four bytes each: whole data sets of them are held in memory.

    Args:
        prompt: BOS (where the tokenizer has one) and the prompt.
        completion: The rationale and EOS; empty for a bare question.
    """

    __slots__ = ("_ids", "_start")

    def __init__(self, prompt: Sequence[int], completion: Sequence[int]) -> None:
        self._ids = array("i", [*prompt, *completion])
        self._start = len(prompt)

    @classmethod
    def frombytes(cls, ids: bytes, start: int) -> Encoded:
        """The inverse of `tobytes`, given how many ids are the prompt's."""
        encoded = cls.__new__(cls)
        encoded._ids, encoded._start = array("i", ids), start
        return encoded

    def tobytes(self) -> bytes:
        """All ids, four bytes each in the machine's order."""
        return self._ids.tobytes()

    @property
    def start(self) -> int:
        """How many ids are the prompt's."""
        return self._start

    def __len__(self) -> int:
        """Tokens of the whole sequence."""
        return len(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoded) and (self._ids, self._start) == (other._ids, other._start)

    def __hash__(self) -> int:
        return hash((self._ids.tobytes(), self._start))

    def __repr__(self) -> str:
        return f"Encoded({self.prompt}, {self.completion})"

    @property
    def prompt(self) -> list[int]:
        """Before the completion."""
        return self._ids[: self._start].tolist()

    @property
    def completion(self) -> list[int]:
        """After the prompt."""
        return self._ids[self._start :].tolist()

    @property
    def ids(self) -> list[int]:
        """The whole sequence."""
        return self._ids.tolist()


def encode(tokenizer: PreTrainedTokenizerBase, texts: Iterable[tuple[str, str | None]]) -> Iterator[Encoded]:
    """Encodes a stream of (bare question, bare rationale or None).

    Prompt and rationale are tokenised apart, so that sampling continues exactly the ids that training saw.
    """
    opening = opening_of(tokenizer)
    stream = iter(texts)
    while chunk := list(islice(stream, _CHUNK)):
        prompts = tokenizer([prompt(question) for question, _ in chunk], add_special_tokens=False)["input_ids"]
        rationales = tokenizer([rationale or "" for _, rationale in chunk], add_special_tokens=False)["input_ids"]
        for (_, rationale), prompt_ids, ids in zip(chunk, prompts, rationales, strict=True):
            yield Encoded([*opening, *prompt_ids], [] if rationale is None else [*ids, eos_of(tokenizer)])


def opening_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer itself puts before a text: BOS, an encoder's CLS, or nothing."""
    ids = tokenizer("")["input_ids"]
    return ids[:1] if ids and ids[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id) else []


@dataclass
class LengthLimit:
    """Keeps texts within the context: a longer one is an error, or is dropped and counted.

    Attributes:
        max_length: Most tokens a text may have, prompt and EOS included.
        drop: Drop longer texts instead of refusing.
        context: The student's own limit, see `context_of`.
        dropped: How many were dropped so far.
    """

    max_length: int
    drop: bool
    context: int | None = None
    dropped: int = 0

    @property
    def most(self) -> int:
        """The smaller of both limits."""
        return self.max_length if self.context is None else min(self.max_length, self.context)

    def admits(self, encoded: Encoded, name: str, file: str | PathLike[str], line: int) -> bool:
        """Whether a text of this length may be used.

        Raises:
            InputError: If it is too long and `drop` is false.
        """
        length = len(encoded)
        if length <= self.most:
            return True
        if not self.drop:
            ours = self.most == self.max_length
            bound = f"--data.max_length {self.most}" if ours else f"the student's context of {self.most}"
            more = "raise --data.max_length" if ours else "take a student with a longer context"
            field, fewer = (
                ("rationale", "give --data.drop_longer true")
                if encoded.completion
                else ("question", "remove this line")
            )
            raise InputError(
                f"'{name}' has {length} tokens, more than {bound}",
                file=file,
                line=line,
                field=field,
                remedy=f"{fewer}, or {more}",
            )
        self.dropped += 1
        return False

    def report(self) -> None:
        """Says on stderr how many texts were dropped, if any."""
        if self.dropped:
            print(f"left out {self.dropped:,} rationales of more than {self.most} tokens", file=sys.stderr)


@dataclass
class CharacterLimit:
    """Drops and counts rationales of too many characters, question included.

    Attributes:
        most: Characters they may have; None lets all pass.
        dropped: How many were dropped so far.
    """

    most: int | None = None
    dropped: int = 0

    def admits(self, rationale: Rationale) -> bool:
        """Whether a rationale may be used."""
        admitted = self.most is None or len(rationale.question) + len(rationale.rationale) <= self.most
        self.dropped += not admitted
        return admitted

    def report(self) -> None:
        """Says on stderr how many were dropped, if any."""
        if self.dropped:
            print(f"left out {self.dropped:,} rationales of more than {self.most} characters", file=sys.stderr)


def encode_rationales(
    tokenizer: PreTrainedTokenizerBase,
    file: Path,
    numbered: Iterable[tuple[int, Rationale]],
    limit: LengthLimit,
    total: int | None,
) -> Iterator[tuple[Rationale, Encoded]]:
    """Encodes a file's rationales behind a bar and yields those that the limit admits.

    Of a stream no more is held than the tokenizer takes at once.

    Args:
        tokenizer: The student's.
        file: They stand in.
        numbered: With their lines.
        limit: On the length of each.
        total: The end of the bar, if known.

    Raises:
        InputError: If one is too long, see `LengthLimit`.
    """
    rationales, again = tee(numbered)
    encodings = encode(tokenizer, ((rationale.question, rationale.rationale) for _, rationale in again))
    # Closed before an error is told: cleared later, the bar would write behind the message.
    with tqdm(total=total, desc=f"encode {file.name}", leave=False, unit="") as bar:
        for (line, rationale), encoded in zip(rationales, encodings, strict=True):
            if limit.admits(encoded, rationale.id, file, line):
                yield rationale, encoded
            bar.update()


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Pads rows of ids to the longest: [B, T] int64."""
    width = max(map(len, rows), default=0)
    filled = torch.full((len(rows), width), value, dtype=torch.int64)
    for index, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        filled[index, span] = torch.tensor(row, dtype=torch.int64)
    return filled


def pad_with_mask(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> dict[str, Tensor]:
    """`input_ids` and the `attention_mask` (1 at real tokens) of padded rows, both [B, T] int64."""
    return {"input_ids": pad(rows, value, left), "attention_mask": pad([[1] * len(row) for row in rows], 0, left)}
