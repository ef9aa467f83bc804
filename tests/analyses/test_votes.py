from __future__ import annotations

from pathlib import Path

from analyses.predictions import prediction_files, read_predictions
from analyses.votes import collect_votes, read_ballots
from datamodules.components.records import write_rationales
from tests.analyses.synthetic import ballots, predictions, samples, write_predictions, write_run


def test_padding_does_not_vote() -> None:
    votes = collect_votes(ballots(samples("a", ["1", "2", None], [0.9, 0.1, 0.5]), samples("b", ["3"], [0.4])))
    assert votes.answers.tolist() == [[0, 1, -1], [0, -1, -1]]
    assert votes.gold.tolist() == [0, -2]
    assert votes.present.tolist() == [[True, True, True], [True, False, False]]
    assert votes.right.tolist() == [[True, False, False], [False, False, False]]
    assert votes.tokens is not None
    assert votes.tokens.tolist() == [[10, 11, 12], [10, 0, 0]]
    assert list(votes.weights) == ["sc", "ws", "asc", "asc-1+s", "asc-1+2s"]


def test_what_samples_lack_is_left_out() -> None:
    votes = collect_votes(ballots(samples("a", ["1"], logprob=None, tokens=None)))
    assert (votes.score, votes.tokens, list(votes.weights)) == (None, None, ["sc"])


def test_reads_the_samples_beside_the_votes_and_no_others(tmp_path: Path) -> None:
    write_run(tmp_path, questions=5, n=3)
    write_rationales(tmp_path / "nat" / "samples.jsonl", samples("x", ["1"]))
    found = read_ballots(prediction_files(tmp_path))
    assert list(found) == ["math"]
    assert [len(ballot.answers) for ballot in found["math"]] == [3] * 5


def test_samples_without_scores_do_too(tmp_path: Path) -> None:
    write_predictions(tmp_path / "votes" / "predictions.jsonl", predictions("sc", {"A": [1]}))
    assert read_ballots(prediction_files(tmp_path)) == {}
    write_rationales(tmp_path / "votes" / "samples.jsonl", samples("A0", ["1"]))
    assert len(read_ballots(prediction_files(tmp_path))["math"]) == 1


def test_a_method_may_have_a_file_for_each_test_set(tmp_path: Path) -> None:
    for dataset in ("math", "gsm8k"):
        made = predictions("nce", {"": [1, 0]}, dataset=dataset)
        write_predictions(tmp_path / "generalisation" / "nce" / dataset / "predictions.jsonl", made)
    assert {(p.method, p.dataset) for p in read_predictions(tmp_path)} == {("nce", "math"), ("nce", "gsm8k")}
