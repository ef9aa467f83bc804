from dataclasses import replace
from pathlib import Path

import pytest

from callbacks.predictions import PredictionWriter
from datamodules.components.records.records import question_of, write_questions, write_rationales
from datamodules.votes import VoteDataModule
from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import write_json_lines
from dust2gold.report.analyses.predictions import prediction_files, read_predictions
from dust2gold.report.analyses.votes import collect_votes, read_vote_groups
from lightning_modules.components.voting.votes import vote_accuracy
from lightning_modules.vote import VotingModel
from tests.dust2gold.report.analyses.synthetic import samples, vote_groups, write_run
from tests.lightning_modules.steps import quiet_trainer


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
    for name in ("scored.jsonl", "samples.jsonl"):  # with scores, or without
        found = read_vote_groups(prediction_files(tmp_path))
        assert {dataset: [len(g.answers) for g in groups] for dataset, groups in found.items()} == {"math": [3] * 5}
        (tmp_path / "votes" / name).rename(tmp_path / "votes" / "samples.jsonl")
    (tmp_path / "votes" / "samples.jsonl").unlink()
    assert read_vote_groups(prediction_files(tmp_path)) == {}


def test_vote_groups_are_those_that_were_cast(tmp_path: Path) -> None:
    """Two of six samples vote, and one question has none: the vote over all of them would be another one."""
    votes_file, questions = tmp_path / "votes" / "samples.jsonl", tmp_path / "questions.jsonl"
    made = [s for name in ("a", "b") for s in samples(name, ["1", "1", "2", "2", "2", "2"])]
    write_rationales(votes_file, made)
    asked = [question_of(made[0]), question_of(made[-1]), replace(question_of(made[0]), id="c")]
    write_questions(questions, asked)
    data = VoteDataModule(str(votes_file), str(questions), 2)
    quiet_trainer(tmp_path / "votes", PredictionWriter()).test(VotingModel(), data, verbose=False)
    (found,) = read_vote_groups(prediction_files(tmp_path)).values()
    cast = [(group.question.id, list(group.answers), group.gold) for group in data.vote_groups]
    assert [(group.question.id, list(group.answers), group.gold) for group in found] == cast
    assert [len(group.answers) for group in found] == [2, 2, 0]
    votes = collect_votes(found)
    correct = [p.correct for p in read_predictions(tmp_path) if p.method == "sc"]
    assert vote_accuracy(votes.answers, votes.weights["sc"], votes.gold).tolist() == correct


def test_a_number_of_samples_is_one(tmp_path: Path) -> None:
    write_rationales(tmp_path / "samples.jsonl", samples("A0", ["1"]))
    row = {"schema": 1, "method": "sc", "question_id": "A0", "samples": "two"}
    write_json_lines(tmp_path / "predictions.jsonl", [row])
    with pytest.raises(InputError, match="'two' is no number of samples") as caught:
        read_vote_groups([tmp_path / "predictions.jsonl"])
    assert (caught.value.line, caught.value.field) == (1, "samples")
