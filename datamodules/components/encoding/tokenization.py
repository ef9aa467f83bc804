"""Questions and rationales as token ids, and the padding of ids into batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.components.encoding.prompts import PLAIN, Prompt, spelling_of
from dust2gold.core.errors import InputError, reason
from dust2gold.core.foreign_errors import loading
from dust2gold.core.students import locate_student

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(student: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a student (`embedded`, a directory or a hub name), with a pad token.

    A tokenizer without a pad token pads with EOS; labels are masked by position, never by id, so EOS stays a target. An
    encoder's tokenizer without EOS ends texts with its separator.

    Raises:
        InputError: If there is no tokenizer, or it has neither EOS nor a separator.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase
    remedy = "give the student's directory, a hub name (with network access), or 'embedded'"
    with loading("the tokenizer", student, remedy, field="data.tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(locate_student(student), trust_remote_code=False)
        tokenizer("")
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

    An InputError if there is a config, and it cannot be read: without it nobody would know what is too long.
    """
    context: int | None = getattr(_text_config(student), "max_position_embeddings", None)
    return context


def embedding_rows_of(student: str) -> int | None:
    """How many tokens the student has an embedding of; None without a config. An InputError as of `context_of`."""
    rows: int | None = getattr(_text_config(student), "vocab_size", None)
    return rows


def _text_config(student: str) -> Any:
    from transformers import AutoConfig

    located = locate_student(student)
    try:
        config = AutoConfig.from_pretrained(located, trust_remote_code=False)
    except Exception as error:  # transformers has no kind of error for a config that is none
        if (file := Path(located, "config.json")).is_file():
            problem, remedy = f"cannot be read ({reason(error)})", "mend it, or fetch it again"
            raise InputError(problem, file=file, remedy=remedy) from error
        return None  # a tokenizer without a model is enough to make batches
    return config.get_text_config(decoder=True)


Ids = list[int]


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str | None]], prompt: Prompt = PLAIN
) -> list[tuple[Ids, Ids]]:
    """Encodes pairs of a bare question and a bare rationale (or None), all at once.

    Gives for each the ids of the prompt, with BOS where the tokenizer or the chat template has one, and those of the
    rationale, with the token that ends it.

    Prompt and rationale are tokenised apart, so that sampling continues exactly the ids that training saw. A special
    token's spelling in them is text: `</s>` written by a teacher is no EOS. In the prompt around them it is the token.
    """
    if not texts:  # the tokenizer refuses an empty batch
        return []
    opening = opening_of(tokenizer) if prompt.opening else []
    end = end_of(tokenizer, prompt)
    answers = _as_text(tokenizer, [prompt.target(rationale or "") for _, rationale in texts])
    return [
        (ids if ids[:1] == opening else [*opening, *ids], [] if rationale is None else [*answer, end])
        for ids, answer, (_, rationale) in zip(
            _asked(tokenizer, [question for question, _ in texts], prompt), answers, texts, strict=True
        )
    ]


def _asked(tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], prompt: Prompt) -> list[Ids]:
    """The ids of prompts, without what a tokenizer puts before every text.

    A whole prompt is tokenised at once, as the tokenizer's own `apply_chat_template` does it: some join white space to
    special tokens, or treat a text's first word apart. Only a prompt in whose question a special token is spelled is
    tokenised in three parts.
    """
    special = spelling_of(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    own = len(special.findall(prompt.before)) + len(special.findall(prompt.after))
    texts = [prompt.ask(question) for question in questions]
    if not own:
        return _as_text(tokenizer, texts)
    ids: list[Ids] = tokenizer(texts, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    frame = tokenizer([prompt.before, prompt.after], add_special_tokens=False, split_special_tokens=False)["input_ids"]
    for number, text in enumerate(texts):
        if len(special.findall(text)) != own:
            inside = text[len(prompt.before) : len(text) - len(prompt.after)]
            ids[number] = [*frame[0], *_as_text(tokenizer, [inside])[0], *frame[1]]
    return ids


def _as_text(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Ids]:
    """The ids of texts in which the spelling of a special token is text."""
    ids: list[Ids] = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def end_of(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> int:
    """The token that ends a rationale."""
    end: Any = tokenizer.convert_tokens_to_ids(prompt.end) if prompt.end else tokenizer.eos_token_id
    return int(end)


def stops_of(tokenizer: PreTrainedTokenizerBase, student: str, prompt: Prompt) -> list[int]:
    """The tokens that end a sample: the prompt's, the tokenizer's EOS, and those of the student's generation config."""
    from transformers import GenerationConfig

    try:
        stops = GenerationConfig.from_pretrained(locate_student(student)).eos_token_id
    except OSError:  # it has none
        stops = None
    further = [stops] if isinstance(stops, int) else stops or []
    return list(dict.fromkeys([end_of(tokenizer, prompt), int(tokenizer.eos_token_id), *further]))


def opening_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer itself puts before a text: BOS, an encoder's CLS, or nothing."""
    ids = tokenizer("")["input_ids"]
    return ids[:1] if ids and ids[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id) else []


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Pads rows of ids to the longest: [B, T] int64."""
    if not rows:  # of a rank that has no question left
        return torch.empty(0, 0, dtype=torch.int64)
    tensors, side = [torch.tensor(row, dtype=torch.int64) for row in rows], "left" if left else "right"
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)


def pad_with_mask(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> dict[str, Tensor]:
    """`input_ids` and the `attention_mask` (1 at real tokens) of padded rows, both [B, T] int64."""
    return {"input_ids": pad(rows, value, left), "attention_mask": pad([[1] * len(row) for row in rows], 0, left)}


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """What each token adds to the text; of a character that several tokens spell the last one has it all."""
    texts, before = [], ""
    for end in range(1, len(ids) + 1):
        text = str(tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False))
        whole = end == len(ids) or not text.endswith("\ufffd")  # how half a character is decoded
        texts.append(text[len(before) :] if whole else "")
        before = text if whole else before
    return texts
