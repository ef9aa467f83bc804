"""Kept encodings: mapped examples are those in memory, made once, and nothing damaged or stale is used."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.components.encoding import encoded_files
from datamodules.components.encoding.encoded_files import FACTS_FILE
from datamodules.components.encoding.examples import COLUMNS
from datamodules.components.encoding.tokenization import encode_rationales
from datamodules.components.records.records import write_rationales
from datamodules.components.records.splits import draw, held_out, held_out_draws
from datamodules.contrasts import ContrastDataModule
from datamodules.rationales import RationaleDataModule
from dust2gold.core.errors import InputError
from tests.forks import ending, fork
from tests.records import rationale, write_positive
from tests.together import end_monitors

LAYOUTS: list[dict[str, Any]] = [
    {},
    {"tokens_per_batch": 300, "loss_on_prompt": True},
    {"packing": True, "batch_size": 2},
]


@pytest.fixture
def data(tiny_student: Path, tmp_path: Path) -> Any:
    """Makes a set-up DataModule on two files of both verdicts; `encoded/` keeps them unless told otherwise."""
    right, wrong = tmp_path / "right.jsonl", tmp_path / "wrong.jsonl"
    write_rationales(right, [rationale(q, 2 * k) for q in range(20) for k in range(2)])
    write_rationales(wrong, [rationale(q, 1) for q in range(20)])

    def make(encoded: str | None = "encoded", **more: Any) -> RationaleDataModule:
        options = {"train": [str(right), str(wrong)], "validation_fraction": 0.2, "batch_size": 4, **more}
        keep = None if encoded is None else str(tmp_path / encoded)
        module = RationaleDataModule(str(tiny_student), encoded=keep, **options)
        module.setup("fit")
        return module

    return make


def batches(module: RationaleDataModule) -> list[dict[str, Any]]:
    return [*module.train_dataloader(), *module.val_dataloader()]


def no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("encoded again")

    monkeypatch.setattr(encoded_files, "encode_rationales", refuse)


def only_directory(root: Path) -> Path:
    """Where the one file's examples are kept."""
    (found,) = [path for path in root.iterdir() if path.is_dir()]
    return found


@pytest.mark.parametrize("options", LAYOUTS)
def test_mapped_batches_are_those_in_memory(
    data: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    expected = batches(data(None, **options))
    made = batches(data(**options))
    no_encoding(monkeypatch)
    for found in (made, batches(data(**options)), batches(data(**options, num_workers=2))):
        assert len(found) == len(expected) > 10
        for batch, other in zip(found, expected, strict=True):
            assert batch.keys() == other.keys()
            for name, value in other.items():
                assert torch.equal(batch[name], value) if isinstance(value, torch.Tensor) else batch[name] == value


def test_examples_are_a_sequence(data: Any) -> None:
    examples = data(validation_fraction=0.0).train_examples
    all_of_them = [examples[number] for number in range(len(examples))]
    assert [e.id for e in all_of_them][38:42] == ["q19/0", "q19/2", "q0/1", "q1/1"]
    assert list(examples) == all_of_them == list(examples[:41]) + list(examples[41:])
    assert examples[-1] == all_of_them[-1]
    assert examples.lengths.tolist() == [e.length for e in all_of_them]
    assert examples.positive.tolist() == [e.positive for e in all_of_them]
    for on_prompt in (False, True):
        assert examples.targets(on_prompt).tolist() == [e.labelled(on_prompt).targets for e in all_of_them]
    with pytest.raises(IndexError):
        examples[len(examples)]


def test_groups_are_drawn_from_mapped_examples_too(data: Any, tiny_student: Path, tmp_path: Path) -> None:
    """`ContrastDataModule` reads examples one by one, wherever they lie."""
    files = [str(tmp_path / "right.jsonl"), str(tmp_path / "wrong.jsonl")]
    data()
    found = []
    for keep in (None, tmp_path / "encoded"):
        module = ContrastDataModule(str(tiny_student), files, validation_fraction=0.2)
        module.encoded = keep
        module.setup("fit")
        found.append([batch["ids"] for batch in batches(module)])
    assert found[0] == found[1]


def test_what_is_left_out_is_told_again(
    tiny_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["short", "long " * 90, "x" * 500, "fine", "long " * 91]
    write_rationales(tmp_path / "p.jsonl", [rationale(q, rationale=text) for q, text in enumerate(texts)])
    said = []
    for _ in range(2):
        module = RationaleDataModule(
            str(tiny_student),
            str(tmp_path / "p.jsonl"),
            validation_fraction=0,
            max_length=120,
            drop_longer=True,
            max_characters=520,
            encoded=str(tmp_path / "encoded"),
        )
        module.setup("fit")
        assert [example.id for example in module.train_examples] == ["q0/0", "q3/0"]
        said.append([line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")])
        no_encoding(monkeypatch)
    assert (
        said[0]
        == said[1]
        == ["left out 1 rationales of more than 520 characters", "left out 2 rationales of more than 120 tokens"]
    )


def test_another_file_or_limit_or_tokenizer_is_another_key(data: Any, tmp_path: Path, tiny_student: Path) -> None:
    kept = tmp_path / "encoded"

    def count() -> int:
        return sum(path.is_dir() for path in kept.iterdir())

    data()
    assert count() == 2
    data(max_length=200)
    assert count() == 4
    data(allow_ungradable=True)
    assert count() == 6
    write_rationales(tmp_path / "right.jsonl", [rationale(q) for q in range(20)])
    assert len(data().train_examples) + len(data().validation_examples) == 40
    assert count() == 7
    tokenizer = json.loads((tiny_student / "tokenizer.json").read_text(encoding="utf-8"))
    for file in tiny_student.iterdir():
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    module = RationaleDataModule(str(tmp_path / "other"), str(tmp_path / "wrong.jsonl"), encoded=str(kept))
    module.setup("fit")
    assert count() == 8


@pytest.mark.parametrize("column", ["ends", "positive", "draws", "ids"])
def test_truncated_examples_are_kept_aside_and_made_again(
    data: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str
) -> None:
    options = {"train": str(tmp_path / "wrong.jsonl")}
    expected = [e.id for e in data(**options).train_examples]
    directory = only_directory(tmp_path / "encoded")
    os.truncate(directory / f"{column}.bin", (directory / f"{column}.bin").stat().st_size // 2)
    capsys.readouterr()
    assert [e.id for e in data(**options).train_examples] == expected
    assert f"kept damaged examples as {tmp_path / 'encoded' / 'aside-1'}" in capsys.readouterr().err
    assert (tmp_path / "encoded" / "aside-1" / FACTS_FILE).is_file()


@pytest.mark.parametrize("column", sorted(COLUMNS))
def test_a_flipped_bit_is_never_trained_on(data: Any, tmp_path: Path, column: str) -> None:
    """In a small column the examples are made again, in a large one the sample is named when it is read."""
    options = {"train": str(tmp_path / "wrong.jsonl"), "validation_fraction": 0.0}
    expected = list(data(**options).train_examples)
    directory = only_directory(tmp_path / "encoded")
    content = bytearray((directory / f"{column}.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (directory / f"{column}.bin").write_bytes(content)
    again = data(**options).train_examples
    if column in ("ids", "names", "questions"):
        with pytest.raises(InputError, match=r"sample \d+ is damaged .*\n.*remove this directory") as caught:
            list(again)
        assert caught.value.file == str(directory)
    else:
        assert list(again) == expected
        assert (tmp_path / "encoded" / "aside-1").is_dir()


def test_after_a_kill_it_is_encoded_anew(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at the fifth of twenty rationales; what it had written is removed."""

    def killed(*arguments: Any) -> Any:
        for number, made in enumerate(encode_rationales(*arguments)):
            if number == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            yield made

    def work() -> int:
        monkeypatch.setattr(encoded_files, "encode_rationales", killed)
        data(train=str(tmp_path / "wrong.jsonl"))
        return 1

    end_monitors()
    (tmp_path / "home").mkdir()
    assert ending(fork(work, tmp_path / "home")) == -signal.SIGKILL
    assert only_directory(tmp_path / "encoded").name.endswith(".part")
    expected = list(data(None, train=str(tmp_path / "wrong.jsonl")).train_examples)
    assert list(data(train=str(tmp_path / "wrong.jsonl")).train_examples) == expected
    assert not only_directory(tmp_path / "encoded").name.endswith(".part")


def test_processes_that_come_together_encode_once(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each notes in a file when it encodes."""
    note = tmp_path / "encoded-by"

    def noted(*arguments: Any) -> Any:
        with note.open("a", encoding="utf-8") as stream:
            stream.write("x")
        return encode_rationales(*arguments)

    def work() -> int:
        monkeypatch.setattr(encoded_files, "encode_rationales", noted)
        return 0 if len(data(train=str(tmp_path / "wrong.jsonl")).train_examples) else 1

    end_monitors()
    homes = [tmp_path / str(number) for number in range(3)]
    for home in homes:
        home.mkdir()
    assert [ending(process) for process in [fork(work, home) for home in homes]] == [0, 0, 0]
    assert note.read_text(encoding="utf-8") == "x"


def test_a_place_that_cannot_be_written_is_read(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    data()
    monkeypatch.setattr(encoded_files, "open_in_place", refuse)
    assert len(data().train_examples)
    with pytest.raises(InputError, match="Permission denied") as caught:
        data(max_length=250)
    assert caught.value.field == "data.encoded"


def test_a_file_that_is_refused_keeps_nothing(data: Any, tmp_path: Path) -> None:
    write_positive(tmp_path / "p.jsonl")
    for options in ({"train": str(tmp_path / "p.jsonl"), "max_length": 20}, {"train": str(tmp_path / "none.jsonl")}):
        with pytest.raises(InputError):
            data(**options)
    assert [path.name for path in (tmp_path / "encoded").iterdir() if path.is_dir()] == []


@given(st.lists(st.text(max_size=8).filter(lambda t: t.isascii()), min_size=1), st.floats(0, 1.5))
def test_split_by_columns_is_the_split_by_name(names: list[str], fraction: float) -> None:
    draws = np.array([draw(name) for name in names], dtype=np.uint64)
    assert held_out_draws(draws, fraction).tolist() == [held_out(name, fraction) for name in names]
    edge = int(draws[0]) / 2**64  # as a float: the draw lies on one side of it or on it
    assert held_out_draws(draws, edge).tolist() == [held_out(name, edge) for name in names]
