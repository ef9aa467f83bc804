from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.grading.vote_groups import NO_ANSWER, NO_GOLD, VoteGroup, make_vote_groups, read_samples
from datamodules.components.records.records import Question, Rationale, write_rationales
from dust2gold.core.errors import InputError
from tests.records import question, rationale

ASKED = question(0, gold="1,000")


def samples(*answers: str | None, right: tuple[str, ...] = (), asked: Question = ASKED) -> list[Rationale]:
    return [
        rationale(0, k, answer=answer, gold=asked.gold, verdict="positive" if answer in right else "negative")
        for k, answer in enumerate(answers)
    ]


def group(*answers: str | None, asked: Question = ASKED, **more: Any) -> VoteGroup:
    (made,) = make_vote_groups(samples(*answers, asked=asked, **more), [asked])
    return made


def test_answers_of_equal_value_share_a_class_in_the_order_they_appear() -> None:
    pooled = group("5", None, "1000", " ", "1000.0", "5.0", "7")
    assert pooled.answers == [0, NO_ANSWER, 1, NO_ANSWER, 1, 0, 2]
    assert pooled.texts == ["5", "1000", "7"]
    assert pooled.gold == 1
    assert group("5").gold == NO_GOLD
    assert group("", "3", asked=question(0, gold="")).gold == NO_GOLD  # where none is given, nothing equals it


def test_samples_are_taken_by_their_number() -> None:
    many = sorted(samples(*map(str, range(12))), key=lambda sample: sample.id)  # q0/10 before q0/2
    (first,) = make_vote_groups(many, [ASKED], samples_per_question=10)
    assert first.texts == [str(k) for k in range(10)]


def test_without_questions_those_with_samples_are_all() -> None:
    groups = make_vote_groups([rationale(q, k) for q in (2, 1) for k in range(2)])
    assert [(made.question, len(made.samples)) for made in groups] == [(question(2), 2), (question(1), 2)]
    assert (groups[0].logprob_mean, groups[0].score) == (None, None)


@pytest.mark.parametrize(
    ("changes", "questions", "message"),
    [
        ({}, [question(1)], "'q0/0' belongs to none of its questions"),
        ({"score": 0.5}, None, "score.*1 of 2 samples have none, e.g. 'q0/1'"),
        ({"logprob": -1.0, "tokens": 1}, None, "logprob.*1 of 2 samples have none"),
        ({"id": "q0-0"}, None, "'q0-0' does not end in a sample's number"),
    ],
)
def test_what_cannot_vote(changes: dict[str, Any], questions: list[Question] | None, message: str) -> None:
    first, second = samples("1", "2")
    with pytest.raises(InputError, match=message):
        make_vote_groups([replace(first, **changes), second], questions)


def test_a_sample_comes_once_and_there_is_one(tmp_path: Path) -> None:
    for name, kept in (("some", samples("1", "2")), ("none", [])):
        write_rationales(tmp_path / name, kept)
    assert read_samples([tmp_path / "some", tmp_path / "none"]) == samples("1", "2")
    for files, field in ((["some", "some"], "id"), (["none"], "data.samples")):
        with pytest.raises(InputError) as caught:
            read_samples([tmp_path / file for file in files])
        assert caught.value.field == field
