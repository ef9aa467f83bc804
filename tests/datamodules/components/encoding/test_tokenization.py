import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from datamodules.components.encoding.prompts import PLAIN
from datamodules.components.encoding.tokenization import (
    context_of,
    encode,
    load_tokenizer,
    pad,
    pad_with_mask,
    token_texts,
)
from dust2gold.core.errors import InputError


def test_prompt_is_the_papers() -> None:
    assert PLAIN.ask("What is 1+1?") == "Problem:\nWhat is 1+1?\nSolution:\n"


def test_training_reads_one_bos_the_sampling_prompt_the_rationale_and_one_eos(tiny_student: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_student))
    texts = [(f"What is {i}+{i}?", " leading space " * (i % 3) + f"\n{i}+{i}={2 * i}") for i in range(40)]
    trained = encode(tokenizer, texts)
    for (question, rationale), (asking, answer) in zip(texts, trained, strict=True):
        ids = asking + answer
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert (ids.count(tokenizer.bos_token_id), ids.count(tokenizer.eos_token_id)) == (1, 1)
        assert tokenizer.decode(asking[1:]) == PLAIN.ask(question)
        assert tokenizer.decode(answer[:-1]) == rationale
    asked = encode(tokenizer, [(question, None) for question, _ in texts])
    assert asked == [(asking, []) for asking, _ in trained]
    assert trained == [encode(tokenizer, [text])[0] for text in texts]
    assert encode(tokenizer, []) == []


def test_the_spelling_of_a_special_token_is_text() -> None:
    tokenizer = load_tokenizer("embedded")
    special = {*tokenizer.all_special_ids}
    for spelling in tokenizer.all_special_tokens:
        ((question, rationale),) = encode(tokenizer, [(f"What is {spelling}?", f"It is {spelling} 5.")])
        assert special.isdisjoint(question[1:]), "but for BOS"
        assert special.isdisjoint(rationale[:-1]), "but for EOS"
        assert tokenizer.decode(rationale[:-1]) == f"It is {spelling} 5."


def test_without_bos_and_pad_token(tiny_student: Path, tmp_path: Path) -> None:
    """A tokenizer as many publish it."""
    plain = AutoTokenizer.from_pretrained(tiny_student)
    plain.pad_token = None
    plain.backend_tokenizer.post_processor = None
    plain.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((tiny_student / "config.json").read_bytes())
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    ((asking, answer),) = encode(tokenizer, [("How many?", "4")])
    assert tokenizer.bos_token_id not in asking + answer
    assert answer[-1] == tokenizer.eos_token_id


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


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=7), max_size=6), st.booleans())
def test_padding_is_undone_by_the_mask(rows: list[list[int]], left: bool) -> None:
    batch = pad_with_mask(rows, value=9, left=left)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.dtype == mask.dtype == torch.int64
    assert ids.shape == mask.shape == (len(rows), max(map(len, rows), default=0))
    assert [ids[i][mask[i].bool()].tolist() for i in range(len(rows))] == rows
    assert (ids[mask == 0] == 9).all()
    assert all(row[-1 if left else 0] for row in mask)
    assert torch.equal(pad(rows, -100, left), ids.masked_fill(mask == 0, -100))


def test_a_config_that_cannot_be_read_is_no_student_without_limits(tiny_student: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_student, tmp_path / "student")
    config = tmp_path / "student" / "config.json"
    assert context_of(str(config.parent)) == 256
    config.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read") as caught:
        context_of(str(config.parent))
    assert caught.value.file == str(config)


@pytest.mark.parametrize("text", ["3 * 4 = 12. \\boxed{12}.", "  Größe ∑\n\n🙂 日本", "🙂", ""])
def test_the_texts_of_tokens_are_the_text(tiny_student: Path, text: str) -> None:
    tokenizer = load_tokenizer(str(tiny_student))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert "".join(texts) == tokenizer.decode(ids)
    assert len(texts) == len(ids)
    assert "\ufffd" not in "".join(texts)
    assert token_texts(tokenizer, ids[:-1])[: len(ids) - 2] == texts[: len(ids) - 2]
