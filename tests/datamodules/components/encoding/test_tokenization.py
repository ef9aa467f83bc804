"""Texts as token ids: what training reads is what sampling writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datamodules.components.encoding.prompts import prompt
from datamodules.components.encoding.tokenization import context_of, encode, load_tokenizer, pad, pad_with_mask
from dust2gold.core.errors import InputError


@pytest.fixture(scope="module")
def tokenizer(tiny_student: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_student))


@pytest.fixture(scope="module")
def plain_student(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny student's files with a tokenizer as many publish it: no pad token, no BOS in front."""
    directory = tmp_path_factory.mktemp("plain")
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    tokenizer.pad_token = None
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.save_pretrained(directory)
    (directory / "config.json").write_bytes((tiny_student / "config.json").read_bytes())
    return str(directory)


def test_prompt_is_the_papers() -> None:
    assert prompt("What is 1+1?") == "Problem:\nWhat is 1+1?\nSolution:\n"


def test_one_bos_prompt_rationale_one_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    (encoded,) = encode(tokenizer, [("How many?", "2+2=4")])
    assert encoded.ids.count(tokenizer.bos_token_id) == 1
    assert encoded.ids[0] == tokenizer.bos_token_id
    assert encoded.ids.count(tokenizer.eos_token_id) == 1
    assert encoded.ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(encoded.prompt[1:]) == prompt("How many?")
    assert tokenizer.decode(encoded.completion[:-1]) == "2+2=4"


def test_training_text_is_the_sampling_prompt_and_the_completion(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [(f"What is {i}+{i}?", " leading space " * (i % 3) + f"\n{i}+{i}={2 * i}") for i in range(40)]
    trained = list(encode(tokenizer, texts))
    asked = list(encode(tokenizer, [(question, None) for question, _ in texts]))
    assert [row.prompt for row in trained] == [row.prompt for row in asked]
    assert all(row.completion == [] for row in asked)
    alone = [next(iter(encode(tokenizer, [text]))) for text in texts]
    assert trained == alone


def test_without_bos_and_pad_token(plain_student: str) -> None:
    tokenizer = load_tokenizer(plain_student)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    (encoded,) = encode(tokenizer, [("How many?", "4")])
    assert tokenizer.bos_token_id not in encoded.ids
    assert encoded.ids[-1] == tokenizer.eos_token_id


def test_what_cannot_be_a_tokenizer_is_refused(tmp_path: Path, tiny_student: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json is missing"):
        load_tokenizer(str(tmp_path / "absent"))
    (tmp_path / "config.json").write_bytes((tiny_student / "config.json").read_bytes())
    with pytest.raises(InputError, match="cannot load the tokenizer") as caught:
        load_tokenizer(str(tmp_path))
    assert (caught.value.field, caught.value.file) == ("data.tokenizer", str(tmp_path))
    endless = AutoTokenizer.from_pretrained(tiny_student)
    endless.eos_token = None
    endless.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no EOS token"):
        load_tokenizer(str(tmp_path))


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=7), min_size=1, max_size=6), st.booleans())
def test_padding_is_undone_by_the_mask(rows: list[list[int]], left: bool) -> None:
    batch = pad_with_mask(rows, value=9, left=left)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.dtype == mask.dtype == torch.int64
    assert ids.shape == mask.shape == (len(rows), max(map(len, rows)))
    assert [ids[i][mask[i].bool()].tolist() for i in range(len(rows))] == rows
    assert (ids[mask == 0] == 9).all()
    edge = mask[:, -1] if left else mask[:, 0]
    assert edge.all()


def test_padding_value_is_free() -> None:
    assert pad([[1], [2, 3]], -100).tolist() == [[1, -100], [2, 3]]


def test_a_config_that_cannot_be_read_is_no_student_without_limits(tiny_student: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_student, tmp_path / "student")
    assert context_of(str(tmp_path / "student")) == 256
    (tmp_path / "student" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read") as caught:
        context_of(str(tmp_path / "student"))
    assert caught.value.file == str(tmp_path / "student" / "config.json")
