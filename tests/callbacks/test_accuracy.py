"""AnswerAccuracy: greedy answers graded, counted by group, and written for the report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from callbacks.accuracy import AnswerAccuracy
from datamodules.rationales import RationaleDataModule
from lightning_modules.components.sampling.sampler import Sample
from tests.records import write_asked


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
def test(make_trainer: Any, tiny_student: Path, tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Tests on 7 questions in batches of 3, as the run "nat", and returns the logged metrics."""

    def run(right: set[str], callback: AnswerAccuracy | None = None) -> dict[str, float]:
        file = write_asked(tmp_path / "q.jsonl", 7)
        data = RationaleDataModule(str(tiny_student), questions=file, question_batch_size=3)
        trainer = make_trainer(callback or AnswerAccuracy(), default_root_dir=tmp_path / "runs/nat")
        trainer.test(Oracle(right), data, verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    return run


def test_metrics_and_rows_of_the_report(test: Callable[..., dict[str, float]], tmp_path: Path, events: Any) -> None:
    metrics = test({"q0", "q2", "q4", "q3"})  # 4 Algebra questions of level 1, 3 Geometry ones of level 2
    expected = {"": 4 / 7, "/subject/Algebra": 3 / 4, "/level/Level 1": 3 / 4}
    expected |= {"/subject/Geometry": 1 / 3, "/level/Level 2": 1 / 3}
    assert metrics == pytest.approx({f"test/accuracy{name}": value for name, value in expected.items()})
    assert json.loads((tmp_path / "runs/nat/metrics.json").read_text()) == pytest.approx(metrics)
    lines = [json.loads(line) for line in (tmp_path / "runs/nat/predictions.jsonl").read_text().splitlines()]
    assert [(line["question_id"], line["correct"]) for line in lines] == [
        (f"q{number}", float(number in (0, 2, 3, 4))) for number in range(7)
    ]
    question = {"method": "nat", "dataset": "nuts", "question_id": "q3", "subject": "Geometry", "level": "Level 2"}
    written = {"answer": "8", "gold": "8", "rationale": "It is \\boxed{8}."}
    assert lines[3] == {"schema": 1, **question, "correct": 1.0, **written}
    assert (lines[1]["answer"], lines[1]["rationale"]) == ("0", "It is \\boxed{0}.")
    assert events().Tags()["tensors"] == [f"test/nat/{row}/text_summary" for row in range(3)]  # of the first batch


def test_a_second_test_forgets_the_first(test: Callable[..., dict[str, float]]) -> None:
    callback = AnswerAccuracy()
    assert test({f"q{number}" for number in range(7)}, callback)["test/accuracy"] == 1.0
    assert test(set(), callback)["test/accuracy"] == 0.0
    assert len(callback.rows) == 7
