"""Votes on samples, from files to tables; in two processes and by configs/vote.yaml: tests/test_processes.py."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.predictions import PredictionWriter
from datamodules.components.records.records import Question, Rationale, rationale_for, write_questions, write_rationales
from datamodules.votes import VoteDataModule
from dust2gold.core.errors import InputError
from lightning_modules.vote import VotingModel
from tests.lightning_modules.steps import quiet_trainer


def question(name: str, gold: str, subject: str = "Algebra") -> Question:
    return Question(name, "How many?", gold, "", subject, "Level 1", "tiny")


def samples_of(asked: Question, answers: list[str | None], scores: list[float], *right: str) -> list[Rationale]:
    return [
        replace(
            rationale_for(asked, k, "...", "nat"),
            answer=answer,
            verdict="positive" if answer in (*right, asked.gold) else "negative",
            logprob=-0.5 * (k + 1) * 10,
            tokens=10,
            seed=k,
            score=score,
        )
        for k, (answer, score) in enumerate(zip(answers, scores, strict=True))
    ]


QUESTIONS = [question("a", "1,000"), question("b", "x+1", "Geometry"), question("c", "7", "Geometry")]
QUESTIONS += [question("nobody", "3")]
SAMPLES = [
    *samples_of(QUESTIONS[0], ["5", "1000", "1000.0", None], [0.9, 0.2, 0.2, 0.9]),
    *samples_of(QUESTIONS[1], ["y", "1+x", "x+1", "z"], [0.1, 0.2, 0.3, 0.4], "1+x"),
    *samples_of(QUESTIONS[2], ["8", "7", "9"], [0.1, 0.8, 0.1]),
]


def files(directory: Path, samples: list[Rationale] = SAMPLES, questions: list[Question] = QUESTIONS) -> dict[str, Any]:
    write_rationales(directory / "samples.jsonl", samples)
    write_questions(directory / "questions.jsonl", questions)
    return {"samples": str(directory / "samples.jsonl"), "questions": str(directory / "questions.jsonl")}


def batch_of(**arguments: Any) -> dict[str, Any]:
    data = VoteDataModule(**arguments)
    data.setup("test")
    batch: dict[str, Any] = next(iter(data.test_dataloader()))
    return batch


def test_batch_is_the_contract(tmp_path: Path) -> None:
    batch = batch_of(**files(tmp_path, SAMPLES[::-1]))  # order in the file does not matter
    assert batch["answers"].tolist() == [[0, 1, 1, -1], [0, 1, 1, 2], [0, 1, 2, -1], [-1, -1, -1, -1]]
    assert batch["gold"].tolist() == [1, 1, 1, -2]
    assert batch["texts"] == [["5", "1000"], ["y", "1+x", "z"], ["8", "7", "9"], []]
    assert batch["logprob_mean"][0].tolist() == [-0.5, -1.0, -1.5, -2.0]
    assert batch["score"][2].tolist() == [0.1, 0.8, 0.1, -1]
    assert batch["answers"].dtype == batch["gold"].dtype == torch.int64
    assert batch["questions"] == [asked.to_json() for asked in QUESTIONS]


def test_only_the_first_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = batch_of(**files(tmp_path), samples_per_question=2)
    assert batch["answers"].tolist() == [[0, 1], [0, 1], [0, 1], [-1, -1]]
    assert "1 of 4 questions have fewer than 2 samples" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["batch_size", "samples_per_question"])
def test_an_option_is_at_least_one(option: str) -> None:
    with pytest.raises(InputError, match=rf"data\.{option}.*at least 1"):
        VoteDataModule("x", **{option: 0})  # type: ignore[arg-type]


def rows_of(directory: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = (directory / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {(row["method"], row["question_id"]): row for row in rows}


def voted(directory: Path, arguments: dict[str, Any]) -> None:
    data = VoteDataModule(batch_size=2, **arguments)
    quiet_trainer(directory, PredictionWriter()).test(VotingModel(), data, verbose=False)


def test_a_test_from_end_to_end(tmp_path: Path) -> None:
    voted(tmp_path / "run", files(tmp_path))
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 20
    methods = ("sc", "asc", "asc-1+s", "asc-1+2s")
    correct = {method: [rows[method, q].pop("correct") for q in ("a", "b", "c", "nobody")] for method in methods}
    assert correct["sc"] == pytest.approx([1, 1, 1 / 3, 0])
    assert correct["asc"] == pytest.approx([0, 1, 1, 0])  # a: one answer of score 0.9 against two of 0.2
    assert correct["asc-1+s"] == pytest.approx([1, 1, 1, 0])  # a: 1.9 against 2.4
    assert correct["asc-1+2s"] == pytest.approx([0.5, 1, 1, 0])  # a: 2.8 against 2.8
    # WS: exp(-0.5) against exp(-1) + exp(-1.5) on a and b, and against exp(-1) alone on c.
    both = float(math.exp(-0.5) < math.exp(-1) + math.exp(-1.5))
    assert [rows["ws", q]["correct"] for q in "abc"] == [both, both, 0]
    about = {"dataset": "tiny", "question_id": "b", "subject": "Geometry", "level": "Level 1"}
    assert rows["asc", "b"] == {"schema": 1, "method": "asc", **about, "answer": "1+x", "gold": "x+1", "samples": 4}
    assert rows["sc", "c"]["answer"] == "8 | 7 | 9"
    assert rows["sc", "nobody"]["answer"] is None
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test/sc/accuracy"] == pytest.approx((2 + 1 / 3) / 4)
    assert metrics["test/asc/accuracy/subject/Geometry"] == pytest.approx(1)
    assert not any("count" in name for name in metrics)


def test_without_scores_asc_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voted(tmp_path / "run", files(tmp_path, [replace(s, score=None) for s in SAMPLES]))
    assert {method for method, _ in rows_of(tmp_path / "run")} == {"sc", "ws"}
    assert "asc" not in (tmp_path / "run" / "metrics.json").read_text()
    assert "left out: asc, asc-1+s, asc-1+2s; the samples have no score" in capsys.readouterr().err
