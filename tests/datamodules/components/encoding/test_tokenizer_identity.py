import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BertTokenizer

from datamodules.components.encoding.tokenization import load_tokenizer
from datamodules.components.encoding.tokenizer_identity import TokenizerIdentity
from dust2gold.core.errors import InputError


def changed(student: Path, directory: Path, change: Callable[[dict[str, Any]], None]) -> Any:
    """The student's tokenizer with something in its tokenizer.json changed."""
    load_tokenizer(str(student)).save_pretrained(directory)
    (directory / "config.json").write_text((student / "config.json").read_text())
    state = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    change(state)
    (directory / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    return load_tokenizer(str(directory))


def key(tokenizer: Any) -> str:
    return TokenizerIdentity.of("a/b", tokenizer).ids


def swap_two_tokens(state: dict[str, Any]) -> None:
    vocabulary = state["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "vocabulary": swap_two_tokens,
    "merges": lambda state: state["model"]["merges"].reverse(),
    "normalizer": lambda state: state.update(normalizer={"type": "Lowercase"}),
    "pre-tokenizer": lambda state: state["pre_tokenizer"]["pretokenizers"].pop(0),
    "BOS": lambda state: state.update(post_processor=None),
    "added token": lambda state: state["added_tokens"].append(
        {**state["added_tokens"][-1], "id": 320, "content": "<x>"}
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_ids_makes_another(what: str, tiny_student: Path, tmp_path: Path) -> None:
    assert key(changed(tiny_student, tmp_path, CHANGES[what])) != key(load_tokenizer(str(tiny_student)))


def test_another_end_of_text_makes_another(tiny_student: Path) -> None:
    tokenizer: Any = load_tokenizer(str(tiny_student))
    before = key(tokenizer)
    tokenizer.eos_token = tokenizer.bos_token
    assert key(tokenizer) != before


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_saving_loading_and_use_make_no_other(kind: str, tiny_student: Path, tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"problem solution apples".split()]
    made: Any = (
        load_tokenizer(str(tiny_student)) if kind == "bpe" else BertTokenizer(vocab={w: k for k, w in enumerate(words)})
    )
    before = [tmp_path / "first", tmp_path / "second"]
    for directory in before:
        made.save_pretrained(directory)
        (directory / "config.json").write_text("{}" if kind == "bpe" else '{"model_type": "bert"}')
        made = load_tokenizer(str(directory))
        made(["apples"], padding="max_length", max_length=7, truncation=True)
    assert len({key(load_tokenizer(str(directory))) for directory in before} | {key(made)}) == 1
    if kind == "bpe":
        assert key(made) == key(load_tokenizer(str(tiny_student)))


def test_it_holds_no_path_of_the_machine(tiny_student: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_student))
    assert TokenizerIdentity.of(str(tiny_student), tokenizer).to_json()["name"] == tiny_student.name
    assert TokenizerIdentity.of("a/b", tokenizer).to_json()["name"] == "a/b"


def test_an_older_file_is_taken_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    TokenizerIdentity("a/b", "0123").check(None, "the adapter", Path("neg"))
    assert "neg: does not say which tokenizer it was trained with: 'a/b' is taken" in capsys.readouterr().err


@pytest.mark.parametrize("entry", [7, {}, {"name": "a/b"}, ["a/b", "0123"]])
def test_a_damaged_entry_is_refused(entry: object) -> None:
    with pytest.raises(InputError, match="damaged"):
        TokenizerIdentity("a/b", "0123").check(entry, "the adapter", Path("neg"))
