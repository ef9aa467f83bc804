"""Questions and rationales as token ids, and the padding of ids into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from datamodules.components.encoding.prompts import prompt
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

    tokenizer: PreTrainedTokenizerBase
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate_student(student), trust_remote_code=False)
    except (OSError, ValueError) as error:
        problem = f"cannot load the tokenizer ({reason(error)})"
        remedy = "give the student's directory, a hub name (with network access), or 'embedded'"
        raise InputError(problem, file=student, field="data.tokenizer", remedy=remedy) from error
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.eos_token_id is None:
        remedy = "set eos_token in tokenizer_config.json"
        raise InputError("the tokenizer has no EOS token", file=student, remedy=remedy)
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
            problem, remedy = f"cannot be read ({reason(error)})", "mend it, or fetch it again"
            raise InputError(problem, file=file, remedy=remedy) from error
        return None  # a tokenizer without a model is enough to make batches
    context: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return context


def eos_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The one EOS id that ends a rationale."""
    return int(tokenizer.eos_token_id)  # load_tokenizer has checked that there is one


def pad_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills padding."""
    return int(tokenizer.pad_token_id)


class Encoded(NamedTuple):
    """Token ids of one text."""

    prompt: list[int]  # BOS (where the tokenizer has one) and the prompt
    completion: list[int]  # the rationale and EOS; empty for a bare question

    @property
    def ids(self) -> list[int]:
        """The whole sequence."""
        return self.prompt + self.completion


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


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Pads rows of ids to the longest: [B, T] int64."""
    width = max(map(len, rows), default=0)
    filled = torch.full((len(rows), width), value, dtype=torch.int64)  # [B, T]
    for index, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        filled[index, span] = torch.tensor(row, dtype=torch.int64)
    return filled


def pad_with_mask(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> dict[str, Tensor]:
    """`input_ids` and the `attention_mask` (1 at real tokens) of padded rows, both [B, T] int64."""
    return {"input_ids": pad(rows, value, left), "attention_mask": pad([[1] * len(row) for row in rows], 0, left)}
