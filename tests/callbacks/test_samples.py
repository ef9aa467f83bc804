"""SampleWriter: what `predict` leaves, and how an interrupted run goes on."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest

from callbacks.samples import SampleWriter, origin_of
from datamodules.components.encoding.prompts import Prompt
from datamodules.components.records.records import Rationale, read_rationales
from datamodules.rationales import RationaleDataModule
from dust2gold.core.errors import InputError
from dust2gold.core.provenance import version_of
from lightning_modules.components.sampling.rng import sample_seed
from lightning_modules.components.sampling.sampler import Sample
from lightning_modules.components.sampling.settings import SamplingSettings
from tests.lightning_modules.steps import quiet_trainer
from tests.records import question, write_asked
from tests.weights import check_same_but_for_rounding

Capture = pytest.CaptureFixture[str]

PART = "run/samples.part-0.jsonl"
ASIDE = "run/aside-1.jsonl"
ALL = {f"q{number}" for number in range(6)}


class Stop(BaseException):
    """Ends a run as a signal would."""


class Interrupter(L.Callback):
    """Notes which questions are sampled; stops after so many batches, or within a batch after so many questions."""

    def __init__(self, batches: int | None = None, questions: int | None = None) -> None:
        self.batches = batches
        self.questions = questions
        self.sampled: list[str] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module: Any = pl_module
        module.sample_listeners.append(self.listen)  # behind SampleWriter's

    def listen(self, samples: list[Sample], batch: dict[str, Any]) -> None:
        self.sampled.append(batch["questions"][samples[0].question_index]["id"])
        if self.questions == len(self.sampled):
            raise Stop

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        if self.batches == args[4] + 1:
            raise Stop


Predict = Callable[..., list[str]]


@pytest.fixture
def predict(student_model: Any, tiny_student: Path, tmp_path: Path) -> Predict:
    """Samples for 6 questions in batches of 2; returns the questions that were sampled."""
    write_asked(tmp_path / "q.jsonl", 6)

    def run(stop_after: int | None = None, questions: int | None = None, root: str = "run", **more: Any) -> list[str]:
        asked = {"question_batch_size": more.pop("batch_size", 2), "limit_questions": more.pop("limit", None)}
        asked |= {"prompt": more.pop("prompt", None)}
        model = student_model(sampling=SamplingSettings(**{"samples": 2, "max_new_tokens": 6, **more}))
        data = RationaleDataModule(str(tiny_student), questions=str(tmp_path / "q.jsonl"), **asked)
        interrupter = Interrupter(stop_after, questions)
        with contextlib.suppress(Stop):
            trainer = quiet_trainer(tmp_path / root, SampleWriter(), interrupter)
            trainer.predict(model, data, return_predictions=False)
        return interrupter.sampled

    return run


def samples(root: Path) -> list[Rationale]:
    return list(read_rationales(root / "samples.jsonl"))


def test_a_question_is_written_when_it_is_done(predict: Predict, tmp_path: Path, capsys: Capture) -> None:
    predict(questions=3, batch_size=6, rows=4)
    predict(batch_size=6, rows=7)  # the samples do not depend on the rows
    assert "resuming: 3 of 6 questions" in capsys.readouterr().out
    assert [record.id for record in samples(tmp_path / "run")] == [f"q{q}/{k}" for q in range(6) for k in range(2)]


def test_samples_are_graded_records_in_order(predict: Predict, tiny_student: Path, tmp_path: Path) -> None:
    predict(seed=5)
    records = samples(tmp_path / "run")
    assert [record.id for record in records] == [f"q{q}/{k}" for q in range(6) for k in range(2)]
    for number, record in enumerate(records):
        asked = question(number // 2)
        assert (record.question_id, record.question, record.gold) == (asked.id, asked.question, asked.gold)
        assert (record.subject, record.level, record.source) == (asked.subject, asked.level, asked.source)
        assert (record.writer, record.seed) == (tiny_student.name, sample_seed(5, asked.id, number % 2))
        assert 1 <= (record.tokens or 0) <= 6
        assert (record.logprob or 0) < 0
        assert record.verdict in ("positive", "negative")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["samples.jsonl"]


@pytest.mark.parametrize("of", ["adapter", "checkpoints/last.ckpt"])
def test_the_writer_is_the_run_that_trained_it(student_model: Any, tiny_student: Path, tmp_path: Path, of: str) -> None:
    trained, given = student_model(), tmp_path / "cot-kd" / of
    trained.configure_model()
    checkpoint = of != "adapter"
    if checkpoint:
        (saver := quiet_trainer(tmp_path)).strategy.connect(trained)
        saver.save_checkpoint(given)
    else:
        given.mkdir(parents=True)
        trained.write_adapter(given)
    model = student_model(adapter=None if checkpoint else str(given))
    data = RationaleDataModule(str(tiny_student), questions=write_asked(tmp_path / "q.jsonl", 1))
    trainer = quiet_trainer(tmp_path / "samples", SampleWriter())
    trainer.ckpt_path = given if checkpoint else None
    trainer.predict(model, data, return_predictions=False)
    assert {record.writer for record in samples(tmp_path / "samples")} == {"cot-kd"}


def test_interrupted_run_goes_on(predict: Predict, tmp_path: Path, capsys: Capture) -> None:
    predict(root="undisturbed")
    parts = [predict(stop_after=1), predict(stop_after=1)]
    assert not (tmp_path / "run" / "samples.jsonl").exists()
    parts += [predict(stop_after=1), predict()]  # all are sampled, but the parts not joined yet
    assert [len(part) for part in parts] == [2, 2, 2, 0]
    assert {name for part in parts for name in part} == ALL
    assert "resuming: 4 of 6 questions" in capsys.readouterr().out
    assert (tmp_path / "run/samples.jsonl").read_bytes() == (tmp_path / "undisturbed/samples.jsonl").read_bytes()
    assert not list((tmp_path / "run").glob("*part*"))


@pytest.mark.parametrize("change", ["quantization", "random_weights", "precision", "student"])
def test_other_numbers_are_other_samples(student_model: Any, tiny_student: Path, tmp_path: Path, change: str) -> None:
    student = tmp_path / "student"
    shutil.copytree(tiny_student, student)
    data = RationaleDataModule(str(tiny_student), questions=write_asked(tmp_path / "q.jsonl", 1))
    data.setup("predict")
    trainer: Any = SimpleNamespace(datamodule=data, ckpt_path=None, precision="32-true")
    model = student_model()
    model.student = str(student)
    before = origin_of(trainer, model, "negative").made.key
    assert origin_of(trainer, model, "negative").made.key == before
    if change == "student":  # trained on in place: the same sizes
        file = student / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    elif change == "precision":
        trainer.precision = "bf16-true"
    else:
        setattr(model, change, {"quantization": "8bit", "random_weights": True}[change])
    assert origin_of(trainer, model, "negative").made.key != before


SAMPLING = {"seed": 1, "temperature": 0.9, "samples": 3, "max_new_tokens": 5}
MADE_OTHERWISE = [f"sampling.{name}" for name in SAMPLING]
MADE_OTHERWISE += ["questions", "prompt", "prompts", "version of torch", "its first line is damaged"]


@pytest.mark.parametrize("change", MADE_OTHERWISE)
def test_a_part_made_otherwise(
    predict: Predict, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    predict(stop_after=2)
    sampling: dict[str, Any] = {}
    part, count = tmp_path / PART, 7 if change == "questions" else 6
    if change == "questions":
        write_asked(tmp_path / "q.jsonl", 7)
    elif change == "prompts":
        monkeypatch.setattr(Prompt, "ask", lambda prompt, question: f"Q: {question}\nA:")
    elif change == "prompt":
        (tmp_path / "short.txt").write_text("Q: {question}\nA:")
        sampling = {"prompt": str(tmp_path / "short.txt")}
    elif change.startswith("version"):
        versions = {"torch": "0"}
        monkeypatch.setattr("dust2gold.core.provenance.version_of", lambda name: versions.get(name) or version_of(name))
    elif change.startswith("its"):
        part.write_bytes(b"\xff\xfe nothing\nmore\n")
    else:
        name = change.removeprefix("sampling.")
        sampling = {name: SAMPLING[name]}
    before = part.read_bytes()
    assert len(predict(**sampling)) == count
    assert (tmp_path / ASIDE).read_bytes() == before
    assert f"sampling anew: made otherwise ({change}); kept: {tmp_path / ASIDE}" in capsys.readouterr().err
    assert len(samples(tmp_path / "run")) == count * sampling.get("samples", 2)


def test_a_smaller_limit_keeps_what_it_asks_for(predict: Predict, tmp_path: Path) -> None:
    sampled = predict(stop_after=1)
    wanted = {"q0", "q1", "q2"}
    assert set(predict(limit=3)) == wanted - set(sampled)
    assert {record.question_id for record in samples(tmp_path / "run")} == wanted


@pytest.mark.parametrize(
    ("line", "damage", "warning"),
    [
        (4, lambda line: line[:25], "left out 1 damaged lines"),
        (1, lambda line: line[:25] + b"\n" + line[25:], "left out 2 damaged lines"),
        (1, lambda line: line + b"?\n" * 1_000, "left out 1,000 damaged lines"),
        (1, lambda line: line.replace(b'/0", ', b'/x", ', 1), ""),  # a record like any other, but of no sample
    ],
    ids=["torn", "split", "many", "another id"],
)
def test_a_damaged_part(predict: Predict, tmp_path: Path, capsys: Any, line: int, damage: Any, warning: str) -> None:
    predict(root="undisturbed")
    sampled = predict(stop_after=1)
    part = tmp_path / PART
    lines = part.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 2 * len(sampled)
    hit = json.loads(lines[line])["question_id"]
    lines[line] = damage(lines[line])
    part.write_bytes(b"".join(lines))
    capsys.readouterr()
    lost = set() if "1,000" in warning else {hit}
    assert set(predict()) == ALL - set(sampled) | lost
    said = capsys.readouterr().err
    assert f"warning: {part}: {warning}" in said if warning else "damaged" not in said
    check_same_but_for_rounding(tmp_path / "run/samples.jsonl", tmp_path / "undisturbed/samples.jsonl")


@pytest.mark.parametrize("damaged", [True, False])
def test_a_sample_lost_meanwhile(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    """What was read at the beginning is whole, so it can only have happened since."""
    part, join = tmp_path / PART, SampleWriter._join

    def damage(writer: SampleWriter, trainer: L.Trainer, stream: Any, samples: int) -> None:
        stream.close()
        first, hit, *others = part.read_bytes().splitlines(keepends=True)
        part.write_bytes(b"".join([first, *([hit[:25] + b"\n"] if damaged else []), *others]))
        join(writer, trainer, stream, samples)

    monkeypatch.setattr(SampleWriter, "_join", damage)
    missing = r"samples\.jsonl: 1 of 12 samples are missing, e\.g\. q\d/\d: not joined\n  run the same command again"
    with pytest.raises(InputError, match=missing):
        predict()
    assert not (tmp_path / "run" / "samples.jsonl").exists()
    monkeypatch.setattr(SampleWriter, "_join", join)
    assert len(predict()) == 1
    assert len(samples(tmp_path / "run")) == 12


def test_samples_that_stand_in_two_parts_are_not_sampled_again(predict: Predict, tmp_path: Path) -> None:
    """As a kill leaves them that comes when rank 0's part is begun and the others are not removed yet."""
    sampled = predict(stop_after=2)
    (tmp_path / "run/samples.part-1.jsonl").write_bytes((tmp_path / PART).read_bytes())
    assert set(predict()) == ALL - set(sampled)
    assert len(samples(tmp_path / "run")) == 12


def test_an_output_outside_the_directory_is_refused() -> None:
    for output in ("/tmp/samples.jsonl", "../samples.jsonl"):
        with pytest.raises(InputError, match="leads out of that directory"):
            SampleWriter(output)


def test_unwritable_directory(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=rf"{tmp_path}/file/run"):
        predict(root="file/run")
