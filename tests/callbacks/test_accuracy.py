"""AnswerAccuracy: greedy answers graded, counted by group, and written for the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from callbacks.accuracy import AnswerAccuracy
from datamodules.components.records.records import write_questions
from datamodules.rationales import RationaleDataModule
from lightning_modules.components.sampling.sampler import Sample
from tests.records import question


class Oracle(L.LightningModule):
    """Answers the questions named in `right` correctly and all others with 0, in the DataModule's tokens."""

    def __init__(self, right: set[str]) -> None:
        super().__init__()
        self.right = right

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> list[Sample]:  # type: ignore[override]
        tokenizer = self.trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        samples = []
        for row, asked in enumerate(batch["questions"]):
            answer = asked["gold"] if asked["id"] in self.right else "0"
            ids = tokenizer(f"It is \\boxed{{{answer}}}.", add_special_tokens=False)["input_ids"]
            samples.append(Sample(row, 0, ids, -1.0, len(ids) + 1, 7, True))
        return samples


@pytest.fixture
def test(make_trainer: Callable[..., L.Trainer], tiny_student: Path, tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Tests on 7 questions in batches of 3 and returns the logged metrics."""

    def run(right: set[str], callback: AnswerAccuracy | None = None, root: str = "runs/nat") -> dict[str, float]:
        write_questions(tmp_path / "q.jsonl", [question(number) for number in range(7)])
        data = RationaleDataModule(str(tiny_student), questions=str(tmp_path / "q.jsonl"), question_batch_size=3)
        trainer = make_trainer(callback or AnswerAccuracy(), default_root_dir=tmp_path / root)
        trainer.test(Oracle(right), data, verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    return run


def test_accuracy_overall_and_by_group(test: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    metrics = test({"q0", "q2", "q4", "q1"})  # 4 Algebra questions of level 1, 3 Geometry ones of level 2
    assert metrics["test/accuracy"] == pytest.approx(4 / 7)
    assert metrics["test/accuracy/subject/Algebra"] == pytest.approx(3 / 4)
    assert metrics["test/accuracy/subject/Geometry"] == pytest.approx(1 / 3)
    assert metrics["test/accuracy/level/Level 1"] == pytest.approx(3 / 4)
    assert metrics["test/accuracy/level/Level 2"] == pytest.approx(1 / 3)
    assert json.loads((tmp_path / "runs/nat/metrics.json").read_text()) == pytest.approx(metrics)


def test_predictions_are_what_the_report_reads(test: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    test({"q3"})
    lines = [json.loads(line) for line in (tmp_path / "runs/nat/predictions.jsonl").read_text().splitlines()]
    assert [line["question_id"] for line in lines] == [f"q{number}" for number in range(7)]
    assert lines[3] == {
        "schema": 1,
        "method": "nat",
        "dataset": "nuts",
        "question_id": "q3",
        "subject": "Geometry",
        "level": "Level 2",
        "correct": 1.0,
        "answer": "8",
        "gold": "8",
    }
    assert [line["correct"] for line in lines] == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert {line["answer"] for line in lines} == {"0", "8"}


def test_method_is_the_directory_or_what_was_given(test: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    for callback, root, method in ((None, "a/cot-kd", "cot-kd"), (AnswerAccuracy("mine"), "b/nce", "mine")):
        test(set(), callback, root)
        assert json.loads((tmp_path / root / "predictions.jsonl").read_text().splitlines()[0])["method"] == method


def test_a_second_test_forgets_the_first(test: Callable[..., dict[str, float]]) -> None:
    callback = AnswerAccuracy()
    assert test({f"q{number}" for number in range(7)}, callback)["test/accuracy"] == 1.0
    assert test(set(), callback)["test/accuracy"] == 0.0
    assert len(callback.rows) == 7


def test_rationales_are_shown(test: Callable[..., dict[str, float]], events: Callable[[], Any]) -> None:
    test({"q6"}, AnswerAccuracy(shown=2))
    tags = events().Tags()["tensors"]
    assert tags == ["test/nat/0/text_summary", "test/nat/1/text_summary"]
