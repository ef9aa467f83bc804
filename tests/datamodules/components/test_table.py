"""Tables of encoded rationales: rows are what the tokenizer makes, kept once, and nothing damaged or stale is used."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.components import table as table_module
from datamodules.components.encoding.tokenization import encode, load_tokenizer
from datamodules.components.records.records import Rationale, write_rationales
from datamodules.components.records.splits import held_out
from datamodules.components.table import PROVENANCE_FILE, TABLE_FILE, Example, Examples, open_table
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
    """Makes a set-up DataModule on two files of both verdicts; `encoded/` keeps their tables unless told otherwise."""
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

    monkeypatch.setattr(table_module, "encode", refuse)


def kept(directory: Path) -> list[Path]:
    """The directories of tables, whole or not."""
    return sorted(path for path in directory.iterdir() if path.is_dir())


TEXT = st.text(max_size=30).filter(lambda text: text.isprintable())
RECORDS = st.lists(
    st.builds(
        lambda question, text, verdict, number: rationale(
            number, question=question or "?", rationale=text, verdict=verdict, answer=None
        ),
        TEXT,
        TEXT,
        st.sampled_from(["positive", "negative", "ungradable"]),
        st.integers(0, 5),
    ),
    max_size=12,
)


@given(records=RECORDS, chunk=st.integers(1, 5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_what_the_tokenizer_makes(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[Rationale], chunk: int
) -> None:
    monkeypatch.setattr(table_module, "_CHUNK", chunk)
    write_rationales(tmp_path / "r.jsonl", records)
    tokenizer = load_tokenizer(str(tiny_student))
    encodings = list(encode(tokenizer, ((r.question, r.rationale) for r in records)))
    for directory in (None, tmp_path / "encoded"):
        examples = Examples(open_table(tokenizer, tmp_path / "r.jsonl", directory))
        assert list(examples) == [
            Example(r.id, r.question_id, r.verdict == "positive", e.ids, len(e.prompt))
            for r, e in zip(records, encodings, strict=True)
        ]
        assert examples.numbers("line").tolist() == list(range(1, len(records) + 1))
        assert examples.numbers("characters").tolist() == [len(r.question) + len(r.rationale) for r in records]
        assert examples.ungradable.tolist() == [r.verdict == "ungradable" for r in records]
        assert examples.positive.tolist() == [r.verdict == "positive" for r in records]
        assert examples.lengths.tolist() == [len(e.ids) for e in encodings]
        assert examples.targets().tolist() == [len(e.completion) for e in encodings]
        assert examples.targets(loss_on_prompt=True).tolist() == [len(e.ids) - 1 for e in encodings]


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


def test_a_temporary_table_leaves_no_file(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    module = data(None)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert list(module.train_examples) == list(data().train_examples)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(InputError, match="cannot write a temporary file") as caught:
        data(None)
    assert "TMPDIR" in str(caught.value)


def test_examples_of_several_tables(data: Any) -> None:
    examples = data(validation_fraction=0.0).train_examples
    all_of_them = list(examples)
    assert [e.id for e in all_of_them][38:42] == ["q19/0", "q19/2", "q0/1", "q1/1"]
    assert examples.take([59, 0, 41, 0]) == [all_of_them[n] for n in (59, 0, 41, 0)]
    assert examples[-1] == all_of_them[-1]
    assert examples.question_ids == [e.question_id for e in all_of_them]
    assert examples.positive.tolist() == [e.positive for e in all_of_them]
    assert list(examples.where(~examples.positive)) == [e for e in all_of_them if not e.positive]
    kept, held = examples.split(0.3)
    assert list(held) == [e for e in all_of_them if held_out(e.question_id, 0.3)]
    assert list(kept) == [e for e in all_of_them if not held_out(e.question_id, 0.3)]
    with pytest.raises(IndexError):
        examples[len(examples)]


def test_what_is_left_out_is_told_again(
    tiny_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["short", "long " * 90, "x" * 500, "fine", "long " * 91]
    write_rationales(tmp_path / "p.jsonl", [rationale(q, rationale=text) for q, text in enumerate(texts)])
    limits: dict[str, Any] = {
        "max_length": 120,
        "drop_longer": True,
        "max_characters": 520,
        "encoded": str(tmp_path / "encoded"),
    }
    for _ in range(2):
        module = RationaleDataModule(str(tiny_student), str(tmp_path / "p.jsonl"), validation_fraction=0, **limits)
        module.setup("fit")
        assert [example.id for example in module.train_examples] == ["q0/0", "q3/0"]
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
        assert said == [
            "left out 1 rationales of more than 520 characters",
            "left out 2 rationales of more than 120 tokens",
        ]
        no_encoding(monkeypatch)


def test_another_file_or_tokenizer_is_another_table(data: Any, tmp_path: Path, tiny_student: Path) -> None:
    encoded = tmp_path / "encoded"
    data()
    assert len(kept(encoded)) == 2
    data(max_length=200, max_characters=1000, allow_ungradable=True)  # limits choose among its rows
    assert len(kept(encoded)) == 2
    (tmp_path / "right.jsonl").rename(tmp_path / "moved.jsonl")
    data(train=str(tmp_path / "moved.jsonl"))
    assert len(kept(encoded)) == 2
    text = (tmp_path / "moved.jsonl").read_text(encoding="utf-8")
    (tmp_path / "right.jsonl").write_text(text.replace('"positive"', '"negative"', 1), encoding="utf-8")
    assert int(data(validation_fraction=0.0).train_examples.positive.sum()) == 39
    assert len(kept(encoded)) == 3
    tokenizer = json.loads((tiny_student / "tokenizer.json").read_text(encoding="utf-8"))
    for file in tiny_student.iterdir():
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    open_table(load_tokenizer(str(tmp_path / "other")), tmp_path / "wrong.jsonl", encoded)
    assert len(kept(encoded)) == 4


def test_another_prompt_is_another_table(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data()
    monkeypatch.setattr(table_module, "prompt", lambda question: f"Q: {question}\nA: ")
    data()
    assert len(kept(tmp_path / "encoded")) == 4


@pytest.mark.parametrize(
    ("file", "harm"), [(TABLE_FILE, "cut"), (TABLE_FILE, "flip"), (TABLE_FILE, "remove"), (PROVENANCE_FILE, "cut")]
)
def test_a_damaged_table_is_made_again(
    data: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, harm: str
) -> None:
    options = {"train": str(tmp_path / "wrong.jsonl"), "validation_fraction": 0.0}
    expected = list(data(**options).train_examples)
    (directory,) = kept(tmp_path / "encoded")
    content = bytearray((directory / file).read_bytes())
    if harm == "cut":
        del content[len(content) // 2 :]
    content[len(content) // 2] ^= 1
    (directory / file).unlink()
    if harm != "remove":
        (directory / file).write_bytes(content)
    capsys.readouterr()
    assert list(data(**options).train_examples) == expected
    assert f"{directory} is damaged: encoding {tmp_path / 'wrong.jsonl'} again" in capsys.readouterr().err
    assert kept(tmp_path / "encoded") == [directory]


def test_after_a_kill_it_is_encoded_anew(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at the fifth of twenty rationales; what it had written is removed."""

    def killed(*arguments: Any) -> Any:
        for number, made in enumerate(encode(*arguments)):
            if number == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            yield made

    def work() -> int:
        monkeypatch.setattr(table_module, "encode", killed)
        data(train=str(tmp_path / "wrong.jsonl"))
        return 1

    end_monitors()
    (tmp_path / "home").mkdir()
    assert ending(fork(work, tmp_path / "home")) == -signal.SIGKILL
    (unfinished,) = kept(tmp_path / "encoded")
    assert unfinished.name.endswith(".part")
    expected = list(data(None, train=str(tmp_path / "wrong.jsonl")).train_examples)
    assert list(data(train=str(tmp_path / "wrong.jsonl")).train_examples) == expected
    assert [path.name.endswith(".part") for path in kept(tmp_path / "encoded")] == [False]


def test_processes_that_come_together_encode_once(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each notes in a file when it encodes."""
    note = tmp_path / "encoded-by"

    def noted(*arguments: Any) -> Any:
        with note.open("a", encoding="utf-8") as stream:
            stream.write("x")
        return encode(*arguments)

    def work() -> int:
        monkeypatch.setattr(table_module, "encode", noted)
        return 0 if len(data(train=str(tmp_path / "wrong.jsonl")).train_examples) else 1

    end_monitors()
    homes = [tmp_path / str(number) for number in range(3)]
    for home in homes:
        home.mkdir()
    assert [ending(process) for process in [fork(work, home) for home in homes]] == [0, 0, 0]
    assert note.read_text(encoding="utf-8") == "x"


def test_a_directory_that_cannot_be_written_is_read(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, *_: Any) -> None: ...

        def acquire(self) -> None:
            raise PermissionError(13, "Permission denied")

    data()
    monkeypatch.setattr(table_module, "FileLock", Refusing)
    assert len(data().train_examples)
    with pytest.raises(InputError, match="Permission denied") as caught:
        data(train=write_positive(tmp_path / "p.jsonl"))
    assert caught.value.field == "data.encoded"


def test_a_file_that_cannot_be_read_keeps_nothing(data: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text(json.dumps(rationale(0).to_json()) + "\n{\n", encoding="utf-8")
    for name in ("broken.jsonl", "none.jsonl"):
        with pytest.raises(InputError):
            data(train=str(tmp_path / name))
    assert kept(tmp_path / "encoded") == []


def test_nothing_is_said_but_by_our_own_bar(data: Any, capfd: pytest.CaptureFixture[str]) -> None:
    data()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "encode right.jsonl" in captured.err
    assert "examples/s" not in captured.err
