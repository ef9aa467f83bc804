from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.records.records import (
    Question,
    Rationale,
    question_id,
    rationale_id,
    read_questions,
    read_rationales,
    write_questions,
    write_rationales,
)
from dust2gold.core.errors import InputError

QUESTION = Question("q-00000", "1 + 1 = ?", "2", "", "Prealgebra", "Level 1", "toy")
RATIONALE = Rationale(
    "q-00000/0",
    "q-00000",
    "1 + 1 = ?",
    "2",
    "So \\boxed{2}.",
    "2",
    "positive",
    "Prealgebra",
    "Level 1",
    "toy",
    "nat",
    logprob=-3.25,
    tokens=7,
    seed=11,
    score=0.5,
)

FIELDS_IN_DOCS = {
    Question: "schema id question gold solution subject level source",
    Rationale: "schema id question_id question gold rationale answer verdict subject level source writer "
    "logprob tokens seed score",
}


@pytest.mark.parametrize("record", [QUESTION, RATIONALE])
def test_json_has_the_documented_fields_and_comes_back(record: Question | Rationale) -> None:
    value = json.loads(json.dumps(record.to_json()))
    assert list(value) == FIELDS_IN_DOCS[type(record)].split()
    assert value["schema"] == 1
    assert type(record).from_json(value) == record


def test_files_come_back(tmp_path: Path) -> None:
    odd = Question("q-00001", 'Zeile\u2028 \n\t"ü" 😀', "½", "", "", "", "toy")
    assert write_questions(tmp_path / "questions.jsonl", [QUESTION, odd]) == 2
    assert list(read_questions(tmp_path / "questions.jsonl")) == [QUESTION, odd]
    assert write_rationales(tmp_path / "positive.jsonl", iter([RATIONALE])) == 1
    plain = (tmp_path / "positive.jsonl").read_bytes()
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "p.jsonl.xz").write_bytes(lzma.compress(plain))
    for name in ("positive.jsonl", "p.jsonl.gz", "p.jsonl.xz"):
        assert list(read_rationales(tmp_path / name)) == [RATIONALE]


def test_nulls_are_allowed_where_documented() -> None:
    value = RATIONALE.to_json() | dict.fromkeys(("answer", "logprob", "tokens", "seed", "score"))
    assert Rationale.from_json(value).logprob is None


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("schema", 2),
        ("schema", "1"),
        ("schema", True),
        ("id", ""),
        ("id", 7),
        ("question", None),
        ("gold", None),
        ("gold", 2),
        ("answer", 2),
        ("verdict", "right"),
        ("verdict", None),
        ("verdict", ["positive"]),
        ("logprob", "-1"),
        ("logprob", True),
        ("logprob", float("nan")),
        ("tokens", -1),
        ("tokens", 1.5),
        ("seed", False),
        ("score", 1.5),
        ("rationale", "half a pair \ud800"),
    ],
)
def test_a_wrong_value_is_named_with_file_and_line(field: str, bad: Any) -> None:
    with pytest.raises(InputError) as caught:
        Rationale.from_json(RATIONALE.to_json() | {field: bad}, "positive.jsonl", 4)
    assert (caught.value.file, caught.value.line, caught.value.field) == ("positive.jsonl", 4, field)
    assert caught.value.remedy
    str(caught.value).encode()  # must be printable whatever was found


@pytest.mark.parametrize("field", FIELDS_IN_DOCS[Rationale].split())
def test_a_missing_field_is_named(field: str) -> None:
    value = RATIONALE.to_json()
    del value[field]
    with pytest.raises(InputError, match="missing") as caught:
        Rationale.from_json(value)
    assert caught.value.field == field


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(InputError, match="unknown") as caught:
        Question.from_json(QUESTION.to_json() | {"colour": "red"})
    assert caught.value.field == "colour"


def test_reading_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    lines = [json.dumps(QUESTION.to_json()), "", json.dumps(QUESTION.to_json() | {"gold": 3})]
    path.write_text("\n".join(lines), encoding="utf-8")
    stream = read_questions(path)
    assert next(stream) == QUESTION
    with pytest.raises(InputError) as caught:
        next(stream)
    assert (caught.value.line, caught.value.field) == (3, "gold")


def test_ids_sort_as_they_count() -> None:
    ids = [question_id("math-train", index) for index in (0, 9, 10, 7499)]
    assert ids == sorted(ids)
    assert ids[3] == "math-train-07499"
    assert rationale_id(ids[3], 3) == "math-train-07499/3"
