import json
import operator
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.components import table as table_module
from datamodules.components.encoding.prompts import Prompt
from datamodules.components.encoding.tokenization import encode, load_tokenizer
from datamodules.components.records.records import VERDICTS, Rationale, write_rationales
from datamodules.components.table import PROVENANCE_FILE, TABLE_FILE, Example, Examples, held_out, open_table
from datamodules.rationales import RationaleDataModule
from dust2gold.core.errors import InputError
from tests.forks import ending, fork
from tests.records import rationale, write_positive
from tests.together import end_monitors

LETTERS = st.characters(exclude_categories=["C", "Z"], include_characters=" ")  # what str.isprintable() accepts
TEXT = st.text(LETTERS, max_size=30)
FIELDS = {
    "question": st.text(LETTERS, min_size=1, max_size=30),
    "rationale": TEXT,
    "verdict": st.sampled_from(VERDICTS),
}
RECORDS = st.lists(st.builds(rationale, st.integers(0, 5), answer=st.none(), **FIELDS), max_size=12)


@pytest.fixture
def data(tiny_student: Path, tmp_path: Path) -> Any:
    """Makes a set-up DataModule on two files of both verdicts; `encoded/` keeps their tables unless told otherwise."""
    files = [str(tmp_path / "right.jsonl"), str(tmp_path / "wrong.jsonl")]
    write_rationales(Path(files[0]), [rationale(q, 2 * k) for q in range(20) for k in range(2)])
    write_rationales(Path(files[1]), [rationale(q, 1) for q in range(20)])

    def make(encoded: str | None = "encoded", **more: Any) -> RationaleDataModule:
        keep = None if encoded is None else str(tmp_path / encoded)
        options = {"train": files, "validation_fraction": 0.2, "batch_size": 4, "encoded": keep, **more}
        module = RationaleDataModule(str(tiny_student), **options)
        module.setup("fit")
        return module

    return make


@pytest.fixture
def wrong(data: Any, tmp_path: Path) -> Callable[..., list[Example]]:
    """The twenty wrong rationales, read anew."""

    def read(encoded: str | None = "encoded") -> list[Example]:
        return list(data(encoded, train=str(tmp_path / "wrong.jsonl"), validation_fraction=0.0).train_examples)

    return read


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[], list[Path]]:
    """The directories of tables in `encoded/`, whole or not."""
    return lambda: sorted(path for path in (tmp_path / "encoded").iterdir() if path.is_dir())


@given(records=RECORDS, chunk=st.integers(1, 5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_what_the_tokenizer_makes(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[Rationale], chunk: int
) -> None:
    monkeypatch.setattr(table_module, "_CHUNK", chunk)
    write_rationales(tmp_path / "r.jsonl", records)
    tokenizer = load_tokenizer(str(tiny_student))
    encodings = encode(tokenizer, [(r.question, r.rationale) for r in records])
    for directory in (None, tmp_path / "encoded"):
        examples = Examples(open_table(tokenizer, tmp_path / "r.jsonl", directory))
        assert list(examples) == [
            Example(r.id, r.question_id, r.verdict == "positive", e[0] + e[1], len(e[0]))
            for r, e in zip(records, encodings, strict=True)
        ]
        assert examples.numbers("line").tolist() == list(range(1, len(records) + 1))
        assert examples.numbers("characters").tolist() == [len(r.question) + len(r.rationale) for r in records]
        assert examples.has_verdict("ungradable").tolist() == [r.verdict == "ungradable" for r in records]
        assert examples.positive.tolist() == [r.verdict == "positive" for r in records]
        assert examples.lengths.tolist() == [len(p) + len(r) for p, r in encodings]
        assert examples.targets().tolist() == [len(r) for _, r in encodings]
        assert examples.targets(loss_on_prompt=True).tolist() == [len(p) + len(r) - 1 for p, r in encodings]


@pytest.mark.parametrize(
    "options", [{}, {"tokens_per_batch": 300, "loss_on_prompt": True}, {"packing": True, "batch_size": 2}]
)
def test_mapped_batches_are_those_in_memory_whoever_collates_them(
    data: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    def batches(encoded: str | None, **more: Any) -> list[dict[str, Any]]:
        module = data(encoded, **options, **more)
        return [*module.train_dataloader(), *module.val_dataloader()]

    expected, helped, made = batches(None), batches(None, num_workers=2), batches("encoded")
    monkeypatch.setattr(table_module, "encode", lambda *_: pytest.fail("encoded again"))
    for found in (helped, made, batches("encoded"), batches("encoded", num_workers=2)):
        assert len(found) == len(expected) > 10
        for batch, other in zip(found, expected, strict=True):
            assert batch.keys() == other.keys()
            for name, value in other.items():
                if name == "sample_bounds":
                    assert batch[name][1] == value[1]
                    assert torch.equal(batch[name][0], value[0])
                else:
                    same = torch.equal if isinstance(value, torch.Tensor) else operator.eq
                    assert same(batch[name], value)


def test_a_temporary_table_leaves_no_file(
    wrong: Callable[..., list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert wrong(None) == wrong()
    assert list((tmp_path / "temporary").iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"(?s)cannot write a temporary file.*TMPDIR"):
        wrong(None)


def test_examples_of_several_tables(data: Any) -> None:
    examples = data(validation_fraction=0.0).train_examples
    whole = list(examples)
    assert [e.id for e in whole][38:42] == ["q19/0", "q19/2", "q0/1", "q1/1"]
    assert examples.take([59, 0, 41, 0]) == [whole[n] for n in (59, 0, 41, 0)]
    assert examples[-1] == whole[-1]
    assert examples.question_ids == [e.question_id for e in whole]
    assert examples.positive.tolist() == [e.positive for e in whole]
    assert list(examples.where(~examples.positive)) == [e for e in whole if not e.positive]
    parts = [[e for e in whole if held_out(e.question_id, 0.3) is held] for held in (False, True)]
    assert [list(part) for part in examples.split(0.3)] == parts


def test_a_share_of_the_questions_is_held_out() -> None:
    names = [f"math-train-{i:05d}" for i in range(4000)]
    held = [{name for name in names if held_out(name, fraction)} for fraction in (0.0, 0.05, 0.1, 1.0)]
    assert [len(part) for part in held] == [0, pytest.approx(200, abs=45), pytest.approx(400, abs=60), 4000]
    assert held[1] < held[2]


def test_another_file_tokenizer_or_prompt_is_another_table(
    data: Any, kept: Any, tmp_path: Path, tiny_student: Path
) -> None:
    right, moved, other = tmp_path / "right.jsonl", tmp_path / "moved.jsonl", tmp_path / "other"
    data()
    data(max_length=200, max_characters=1000, allow_ungradable=True)  # limits choose among its rows
    right.rename(moved)
    data(train=str(moved))
    assert len(kept()) == 2
    right.write_text(moved.read_text(encoding="utf-8").replace('"positive"', '"negative"', 1), encoding="utf-8")
    assert int(data(validation_fraction=0.0).train_examples.positive.sum()) == 39
    assert len(kept()) == 3
    shutil.copytree(tiny_student, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    open_table(load_tokenizer(str(other)), moved, tmp_path / "encoded")
    assert len(kept()) == 4
    (tmp_path / "short.txt").write_text("Q: {question}\nA: ")
    data(prompt=str(tmp_path / "short.txt"))
    assert len(kept()) == 6
    data(cut_traces=True)
    assert len(kept()) == 8


@pytest.mark.parametrize(
    ("file", "harm"), [(TABLE_FILE, "cut"), (TABLE_FILE, "flip"), (TABLE_FILE, "remove"), (PROVENANCE_FILE, "cut")]
)
def test_a_damaged_table_is_made_again(
    wrong: Any, kept: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, harm: str
) -> None:
    expected = wrong()
    (directory,) = kept()
    content = bytearray((directory / file).read_bytes())
    if harm == "cut":
        del content[len(content) // 2 :]
    content[len(content) // 2] ^= 1
    (directory / file).unlink()
    if harm != "remove":
        (directory / file).write_bytes(content)
    capsys.readouterr()
    assert wrong() == expected
    assert f"{directory} is damaged: encoding {tmp_path / 'wrong.jsonl'} again" in capsys.readouterr().err
    assert kept() == [directory]


def test_after_a_kill_it_is_encoded_anew(
    wrong: Any, kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when the second of the file's four chunks is encoded; what it had written is removed."""

    def killed(tokenizer: Any, texts: list[Any], prompt: Prompt) -> Any:
        if "and finds 7" in texts[0][0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(tokenizer, texts, prompt)

    def work() -> int:
        monkeypatch.setattr(table_module, "_CHUNK", 5)
        monkeypatch.setattr(table_module, "encode", killed)
        wrong()
        return 1

    end_monitors()
    (tmp_path / "home").mkdir()
    assert ending(fork(work, tmp_path / "home")) == -signal.SIGKILL
    assert [path.name.endswith(".part") for path in kept()] == [True]
    assert wrong() == wrong(None)
    assert [path.name.endswith(".part") for path in kept()] == [False]


def test_processes_that_come_together_encode_once(wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(*arguments: Any) -> Any:
        with (tmp_path / "encoded-by").open("a", encoding="utf-8") as stream:
            stream.write("x")
        return encode(*arguments)

    def work() -> int:
        monkeypatch.setattr(table_module, "encode", noted)
        return 0 if wrong() else 1

    end_monitors()
    homes = [tmp_path / str(number) for number in range(3)]
    for home in homes:
        home.mkdir()
    assert [ending(process) for process in [fork(work, home) for home in homes]] == [0, 0, 0]
    assert (tmp_path / "encoded-by").read_text(encoding="utf-8") == "x"


def test_a_directory_that_cannot_be_written_is_read(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    data()
    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert len(data().train_examples)
    with pytest.raises(PermissionError):
        data(train=write_positive(tmp_path / "p.jsonl"))


def test_a_file_that_cannot_be_read_keeps_nothing(data: Any, kept: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text(json.dumps(rationale(0).to_json()) + "\n{\n", encoding="utf-8")
    for name in ("broken.jsonl", "none.jsonl"):
        with pytest.raises(InputError):
            data(train=str(tmp_path / name))
    assert kept() == []


def test_nothing_is_said_but_by_our_own_bar(data: Any, capfd: pytest.CaptureFixture[str]) -> None:
    data()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "encode right.jsonl" in captured.err
    assert "examples/s" not in captured.err
