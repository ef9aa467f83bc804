"""SampleWriter: what `predict` leaves, and how an interrupted run goes on."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest

from callbacks.samples import SampleWriter, origin_of
from datamodules.components.encoding import tokenization
from datamodules.components.records.records import read_rationales
from datamodules.rationales import RationaleDataModule
from dust2gold.core.errors import InputError
from dust2gold.core.locks import release, take
from dust2gold.core.provenance import version_of
from lightning_modules.components.sampling.rng import sample_seed
from lightning_modules.components.sampling.sampler import Sample
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.negative import NegativeModel
from tests.records import question, write_asked


class Stop(BaseException):
    """Ends a run as a signal would: no hook of Lightning's gets to tidy up."""


class Interrupter(L.Callback):
    """Notes which questions are sampled and stops after so many batches."""

    def __init__(self, batches: int | None = None) -> None:
        self.batches = batches
        self.sampled: list[str] = []

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        batch, batch_idx = args[3], args[4]
        self.sampled += [asked["id"] for asked in batch["questions"]]
        if self.batches == batch_idx + 1:
            raise Stop


Predict = Callable[..., list[str]]


@pytest.fixture
def predict(
    student_model: Callable[..., NegativeModel],
    make_trainer: Callable[..., L.Trainer],
    tiny_student: Path,
    tmp_path: Path,
) -> Predict:
    """Samples for 6 questions in batches of 2; returns the questions in the order they were sampled."""
    write_asked(tmp_path / "q.jsonl", 6)

    def run(stop_after: int | None = None, root: str = "run", limit: int | None = None, **sampling: Any) -> list[str]:
        model = student_model(sampling=SamplingSettings(**{"samples": 2, "max_new_tokens": 6, **sampling}))
        data = RationaleDataModule(
            str(tiny_student), questions=str(tmp_path / "q.jsonl"), question_batch_size=2, limit_questions=limit
        )
        interrupter = Interrupter(stop_after)
        trainer = make_trainer(SampleWriter(), interrupter, default_root_dir=tmp_path / root, logger=False)
        try:
            trainer.predict(model, data, return_predictions=False)
        except Stop:
            assert stop_after is not None
        return interrupter.sampled

    return run


class StopWithinBatch(L.Callback):
    """Stops after so many questions."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module: Any = pl_module
        module.sample_listeners.append(self.heard)  # behind SampleWriter's

    def heard(self, samples: list[Sample], batch: dict[str, Any]) -> None:
        self.left -= 1
        if not self.left:
            raise Stop


def test_a_question_is_written_when_it_is_done_not_when_its_batch_is(
    student_model: Callable[..., NegativeModel],
    make_trainer: Callable[..., L.Trainer],
    tiny_student: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_asked(tmp_path / "q.jsonl", 6)
    for callbacks in ([SampleWriter(), StopWithinBatch(3)], [SampleWriter()]):
        model = student_model(sampling=SamplingSettings(2, max_new_tokens=6, rows=4))
        data = RationaleDataModule(str(tiny_student), questions=str(tmp_path / "q.jsonl"), question_batch_size=6)
        trainer = make_trainer(*callbacks, default_root_dir=tmp_path / "run", logger=False)
        with contextlib.suppress(Stop):
            trainer.predict(model, data, return_predictions=False)
    assert "resuming: 3 of 6 questions" in capsys.readouterr().out
    records = list(read_rationales(tmp_path / "run" / "samples.jsonl"))
    assert [record.id for record in records] == [f"q{q}/{k}" for q in range(6) for k in range(2)]


def test_parts_do_not_depend_on_the_places(predict: Predict) -> None:
    assert len(predict(stop_after=2, rows=3)) == 4
    assert len(predict(rows=7)) == 2


def test_samples_are_graded_records_in_order(predict: Predict, tiny_student: Path, tmp_path: Path) -> None:
    predict(seed=5)
    records = list(read_rationales(tmp_path / "run" / "samples.jsonl"))
    assert [record.id for record in records] == [f"q{q}/{k}" for q in range(6) for k in range(2)]
    for place, record in enumerate(records):
        asked = question(place // 2)
        assert (record.question_id, record.question, record.gold) == (asked.id, asked.question, asked.gold)
        assert (record.subject, record.level, record.source) == (asked.subject, asked.level, asked.source)
        assert record.writer == tiny_student.name
        assert record.seed == sample_seed(5, asked.id, place % 2)
        assert record.tokens is not None
        assert 1 <= record.tokens <= 6
        assert record.logprob is not None
        assert record.logprob < 0
        assert record.verdict in ("positive", "negative")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["samples.jsonl"]


@pytest.mark.parametrize("of", ["adapter", "checkpoints/last.ckpt"])
def test_the_writer_is_the_run_that_trained_it_not_its_stage(
    student_model: Callable[..., NegativeModel],
    make_trainer: Callable[..., L.Trainer],
    tiny_student: Path,
    tmp_path: Path,
    of: str,
) -> None:
    """CoT KD is trained as M_neg is, on other files."""
    trained, given = student_model(), tmp_path / "cot-kd" / of
    trained.configure_model()
    checkpoint = of != "adapter"
    if checkpoint:
        (saver := make_trainer(logger=False)).strategy.connect(trained)
        saver.save_checkpoint(given)
    else:
        given.mkdir(parents=True)
        trained.write_adapter(given)
    model = student_model(adapter=None if checkpoint else str(given))
    data = RationaleDataModule(str(tiny_student), questions=write_asked(tmp_path / "q.jsonl", 1))
    trainer = make_trainer(SampleWriter(), default_root_dir=tmp_path / "samples", logger=False)
    trainer.ckpt_path = given if checkpoint else None
    trainer.predict(model, data, return_predictions=False)
    assert {record.writer for record in read_rationales(tmp_path / "samples/samples.jsonl")} == {"cot-kd"}


def test_interrupted_run_goes_on(predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(root="undisturbed")
    before = predict(stop_after=1)
    middle = predict(stop_after=1)
    assert not (tmp_path / "run" / "samples.jsonl").exists()
    after = predict()
    assert len(before) == len(middle) == len(after) == 2
    assert sorted(before + middle + after) == [f"q{q}" for q in range(6)]
    assert "resuming: 4 of 6 questions" in capsys.readouterr().out
    same = [(tmp_path / root / "samples.jsonl").read_bytes() for root in ("run", "undisturbed")]
    assert same[0] == same[1]
    assert not list((tmp_path / "run").glob("*part*"))


@pytest.mark.parametrize("change", [{"seed": 1}, {"temperature": 0.9}, {"samples": 3}, {"max_new_tokens": 5}])
def test_parts_of_other_settings_are_not_reused(predict: Predict, change: dict[str, Any]) -> None:
    predict(stop_after=2)
    assert len(predict(**change)) == 6


@pytest.mark.parametrize("change", ["quantization", "random_weights", "precision", "student"])
def test_samples_of_other_numbers_are_other_samples(
    student_model: Callable[..., NegativeModel], tiny_student: Path, tmp_path: Path, change: str
) -> None:
    student = tmp_path / "student"
    shutil.copytree(tiny_student, student)
    write_asked(tmp_path / "q.jsonl", 1)

    def key() -> str:
        data = RationaleDataModule(str(tiny_student), questions=str(tmp_path / "q.jsonl"))
        trainer: Any = SimpleNamespace(datamodule=data, ckpt_path=None, precision=precision)
        return origin_of(trainer, model, "negative").made.key

    model, precision = student_model(), "32-true"
    model.student = str(student)
    before = key()
    assert key() == before
    if change == "student":  # trained on in place: the same sizes
        file = student / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    elif change == "precision":
        precision = "bf16-true"
    else:
        setattr(model, change, {"quantization": "8bit", "random_weights": True}[change])
    assert key() != before


def test_parts_of_other_questions_are_not_reused(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(stop_after=2)
    part = tmp_path / "run" / "samples.part-0.jsonl"
    before = part.read_bytes()
    write_asked(tmp_path / "q.jsonl", 7)
    assert len(predict()) == 7
    assert (aside := tmp_path / "run" / "aside-1.jsonl").read_bytes() == before
    assert f"sampling anew: made otherwise (questions); kept: {aside}" in capsys.readouterr().err


def test_answers_to_another_prompt_are_not_reused(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(stop_after=2)
    part = tmp_path / "run" / "samples.part-0.jsonl"
    before = part.read_bytes()
    monkeypatch.setattr(tokenization, "prompt", lambda question: f"Q: {question}\nA:")
    assert len(predict()) == 6
    assert (aside := tmp_path / "run" / "aside-1.jsonl").read_bytes() == before
    assert f"sampling anew: made otherwise (prompts); kept: {aside}" in capsys.readouterr().err
    assert len(list(read_rationales(tmp_path / "run" / "samples.jsonl"))) == 12


def test_samples_of_another_version_are_not_reused(
    predict: Predict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(stop_after=2)
    monkeypatch.setattr(
        "dust2gold.core.provenance.version_of", lambda name: "0" if name == "torch" else version_of(name)
    )
    assert len(predict()) == 6
    assert "sampling anew: made otherwise (version of torch)" in capsys.readouterr().err


def test_a_smaller_limit_keeps_what_it_asks_for(predict: Predict, tmp_path: Path) -> None:
    sampled = predict(stop_after=1)
    again = predict(limit=3)
    wanted = {"q0", "q1", "q2"}
    assert set(again) == wanted - set(sampled)
    assert {record.question_id for record in read_rationales(tmp_path / "run" / "samples.jsonl")} == wanted


def test_torn_line_and_unfinished_question_are_sampled_again(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(root="undisturbed")
    sampled = predict(stop_after=2)
    part = tmp_path / "run" / "samples.part-0.jsonl"
    lines = part.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 1 + 2 * len(sampled)
    part.write_text("".join(lines[:-1]) + lines[-1][:25], encoding="utf-8")
    torn = json.loads(lines[-1])["question_id"]
    capsys.readouterr()
    assert sorted(predict()) == sorted({f"q{q}" for q in range(6)} - set(sampled) | {torn})
    assert f"warning: {part}: left out 25 bytes after the last whole line" in capsys.readouterr().err
    one, other = (list(read_rationales(tmp_path / root / "samples.jsonl")) for root in ("run", "undisturbed"))
    assert [replace(record, logprob=None) for record in one] == [replace(record, logprob=None) for record in other]
    # Batched with other questions, matrix products round differently.
    assert [record.logprob for record in one] == pytest.approx([record.logprob for record in other], abs=1e-4)


def test_all_sampled_already(predict: Predict, tmp_path: Path) -> None:
    predict(root="undisturbed")
    predict(stop_after=3)  # after the last batch, before the parts are joined
    assert predict() == []
    same = [(tmp_path / root / "samples.jsonl").read_bytes() for root in ("run", "undisturbed")]
    assert same[0] == same[1]


def test_a_ruined_part_is_begun_anew(predict: Predict, tmp_path: Path) -> None:
    predict(stop_after=1)
    (tmp_path / "run" / "samples.part-0.jsonl").write_bytes(b"\xff\xfe nothing\nmore\n")
    assert len(predict()) == 6
    assert (tmp_path / "run" / "aside-1.jsonl").read_bytes() == b"\xff\xfe nothing\nmore\n"


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "split": lambda line: line[:25] + b"\n" + line[25:],
    "another id": lambda line: line.replace(b'/0", ', b'/x", ', 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_part_the_whole_samples_are_used(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    predict(root="undisturbed")
    sampled = predict(stop_after=2)
    part = tmp_path / "run" / "samples.part-0.jsonl"
    first, hit, *others = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(first + DAMAGES[damage](hit) + b"".join(others))
    before = part.read_bytes()
    capsys.readouterr()
    again = {f"q{q}" for q in range(6)} - set(sampled) | {json.loads(hit)["question_id"]}
    assert sorted(predict()) == sorted(again)
    said = capsys.readouterr().err
    if damage == "another id":  # a record like any other, but of no sample
        assert "damaged" not in said
    else:
        aside = tmp_path / "run" / "aside-1.jsonl"
        lines = "2 damaged lines (2, 3)" if damage == "split" else "1 damaged line (2)"
        assert f"warning: {part}: left out {lines}; kept a copy: {aside}" in said
        assert aside.read_bytes() == before
    one, other = (list(read_rationales(tmp_path / root / "samples.jsonl")) for root in ("run", "undisturbed"))
    assert [replace(record, logprob=None) for record in one] == [replace(record, logprob=None) for record in other]


def test_many_damaged_lines_are_told_in_short(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(stop_after=1)
    part = tmp_path / "run" / "samples.part-0.jsonl"
    with part.open("a", encoding="utf-8") as stream:
        stream.write("?\n" * 1_000)
    capsys.readouterr()
    assert len(predict()) == 4
    assert "left out 1,000 damaged lines (6, 7, 8, …); kept a copy" in capsys.readouterr().err


def test_a_sample_damaged_meanwhile_is_an_error_that_the_same_command_mends(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read at the beginning is whole, so it can only have happened since."""
    part = tmp_path / "run" / "samples.part-0.jsonl"

    def damage(writer: SampleWriter, trainer: L.Trainer, stream: Any) -> None:
        stream.close()
        first, hit, *others = part.read_bytes().splitlines(keepends=True)
        part.write_bytes(b"".join([first, hit[:25] + b"\n", *others]))
        join(writer, trainer, stream)

    join = SampleWriter._join
    monkeypatch.setattr(SampleWriter, "_join", damage)
    with pytest.raises(InputError, match=r"samples\.part-0\.jsonl:2: damaged line\n  run the same command again"):
        predict()
    assert not (tmp_path / "run" / "samples.jsonl").exists()
    monkeypatch.setattr(SampleWriter, "_join", join)
    assert len(predict()) == 1
    assert len(list(read_rationales(tmp_path / "run" / "samples.jsonl"))) == 12


def test_samples_that_stand_in_two_parts_are_not_sampled_again(predict: Predict, tmp_path: Path) -> None:
    """As a kill leaves them that comes when rank 0's part is begun and the others are not removed yet."""
    sampled = predict(stop_after=2)
    part = tmp_path / "run" / "samples.part-0.jsonl"
    part.with_name("samples.part-1.jsonl").write_bytes(part.read_bytes())
    assert sorted(predict()) == sorted({f"q{q}" for q in range(6)} - set(sampled))
    assert len(list(read_rationales(tmp_path / "run" / "samples.jsonl"))) == 12


def test_a_second_command_at_the_same_file_is_refused(predict: Predict, tmp_path: Path) -> None:
    """Each would remove the other's parts, and both would end well with samples missing."""
    predict(stop_after=1)
    other = take(tmp_path / "run" / ".samples.lock")
    assert other is not None
    with pytest.raises(InputError, match=r"samples\.jsonl: another command is writing it"):
        predict()
    release(other)
    assert len(predict()) == 4
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["samples.jsonl"]


def test_unwritable_place(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write") as caught:
        predict(root="file/run")
    assert str(tmp_path / "file" / "run") in str(caught.value)
