from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest

from callbacks.predictions import PredictionWriter
from datamodules.components.records.records import question_of, write_questions, write_rationales
from datamodules.votes import VoteDataModule
from dust2gold.core.errors import InputError
from dust2gold.report.analyses.predictions import prediction_files, read_predictions
from dust2gold.report.analyses.votes import collect_votes, read_vote_groups
from lightning_modules.components.voting.votes import vote_accuracy
from lightning_modules.vote import VotingModel
from tests.dust2gold.report.analyses.synthetic import predictions, samples, vote_groups, write_predictions, write_run


def test_padding_does_not_vote() -> None:
    votes = collect_votes(vote_groups(samples("a", ["1", "2", None], [0.9, 0.1, 0.5]), samples("b", ["3"], [0.4])))
    assert votes.answers.tolist() == [[0, 1, -1], [0, -1, -1]]
    assert votes.gold.tolist() == [0, -2]
    assert votes.present.tolist() == [[True, True, True], [True, False, False]]
    assert votes.right.tolist() == [[True, False, False], [False, False, False]]
    assert votes.tokens is not None
    assert votes.tokens.tolist() == [[10, 11, 12], [10, 0, 0]]
    assert list(votes.weights) == ["sc", "ws", "asc", "asc-1+s", "asc-1+2s"]


def test_what_samples_lack_is_left_out() -> None:
    votes = collect_votes(vote_groups(samples("a", ["1"], logprob=None, tokens=None)))
    assert (votes.score, votes.tokens, list(votes.weights)) == (None, None, ["sc"])


def test_reads_the_samples_beside_the_votes_and_no_others(tmp_path: Path) -> None:
    write_run(tmp_path, questions=5, n=3)
    write_rationales(tmp_path / "nat" / "samples.jsonl", samples("x", ["1"]))
    found = read_vote_groups(prediction_files(tmp_path))
    assert list(found) == ["math"]
    assert [len(group.answers) for group in found["math"]] == [3] * 5


def test_vote_groups_are_those_that_were_cast(tmp_path: Path) -> None:
    """Two of six samples vote, and one question has none: the vote over all of them would be another one."""
    answers = ["1", "1", "2", "2", "2", "2"]
    made = [s for name in ("a", "b") for s in samples(name, answers)]
    write_rationales(tmp_path / "votes" / "samples.jsonl", made)
    asked = {s.question_id: question_of(s) for s in made}
    asked["c"] = replace(asked["a"], id="c")
    write_questions(tmp_path / "questions.jsonl", asked.values())
    data = VoteDataModule(str(tmp_path / "votes" / "samples.jsonl"), str(tmp_path / "questions.jsonl"), 2)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path / "votes",
        callbacks=[PredictionWriter()],
    )
    trainer.test(VotingModel(), data, verbose=False)
    (found,) = read_vote_groups(prediction_files(tmp_path)).values()
    assert [(b.question.id, list(b.answers), b.gold) for b in found] == [
        (b.question.id, list(b.answers), b.gold) for b in data.vote_groups
    ]
    assert [len(b.answers) for b in found] == [2, 2, 0]
    votes = collect_votes(found)
    by_method = {p.question_id: p.correct for p in read_predictions(tmp_path) if p.method == "sc"}
    assert vote_accuracy(votes.answers, votes.weights["sc"], votes.gold).tolist() == list(by_method.values())


def test_a_number_of_samples_is_one(tmp_path: Path) -> None:
    write_rationales(tmp_path / "samples.jsonl", samples("A0", ["1"]))
    row = {"schema": 1, "method": "sc", "question_id": "A0", "samples": "two"}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="'two' is no number of samples") as caught:
        read_vote_groups([tmp_path / "predictions.jsonl"])
    assert (caught.value.line, caught.value.field) == (1, "samples")


def test_samples_without_scores_do_too(tmp_path: Path) -> None:
    write_predictions(tmp_path / "votes" / "predictions.jsonl", predictions("sc", {"A": [1]}))
    assert read_vote_groups(prediction_files(tmp_path)) == {}
    write_rationales(tmp_path / "votes" / "samples.jsonl", samples("A0", ["1"]))
    assert len(read_vote_groups(prediction_files(tmp_path))["math"]) == 1


def test_a_method_may_have_a_file_for_each_test_set(tmp_path: Path) -> None:
    for dataset in ("math", "gsm8k"):
        made = predictions("nce", {"": [1, 0]}, dataset=dataset)
        write_predictions(tmp_path / "generalisation" / "nce" / dataset / "predictions.jsonl", made)
    assert {(p.method, p.dataset) for p in read_predictions(tmp_path)} == {("nce", "math"), ("nce", "gsm8k")}
