import gzip
import json
import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.records.records import (
    Question,
    Rationale,
    read_questions,
    read_rationales,
    write_questions,
    write_rationales,
)
from dust2gold.core.errors import InputError
from tests.records import question, rationale

QUESTION = question(0)
RATIONALE = rationale(0, logprob=-3.25, tokens=7, seed=11, score=0.5)
IN_DOCS = {
    Question: "schema id question gold solution subject level source",
    Rationale: "schema id question_id question gold rationale answer verdict subject level source writer "
    "logprob tokens seed score",
}
BAD: dict[str, list[Any]] = {"schema": [2, "1", True], "id": ["", 7], "question": [None], "gold": [None, 2]}
BAD |= {"answer": [2], "verdict": ["right", None, ["positive"]], "logprob": ["-1", True, float("nan")]}
BAD |= {"tokens": [-1, 1.5], "seed": [False], "score": [1.5], "rationale": ["half a pair \ud800"]}


@pytest.mark.parametrize("record", [QUESTION, RATIONALE])
def test_json_has_the_documented_fields_and_comes_back(record: Question | Rationale) -> None:
    value = json.loads(json.dumps(record.to_json()))
    assert list(value) == IN_DOCS[type(record)].split()
    assert value["schema"] == 1
    assert type(record).from_json(value) == record


def test_files_come_back(tmp_path: Path) -> None:
    odd = Question("q-00001", 'Zeile\u2028 \n\t"ü" 😀', "½", "", "", "", "toy")
    assert write_questions(tmp_path / "questions.jsonl", [QUESTION, odd]) == 2
    assert list(read_questions(tmp_path / "questions.jsonl")) == [QUESTION, odd]
    unknown = replace(RATIONALE, answer=None, logprob=None, tokens=None, seed=None, score=None)
    assert write_rationales(tmp_path / "r.jsonl", iter([RATIONALE, unknown])) == 2
    plain = (tmp_path / "r.jsonl").read_bytes()
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "r.jsonl.xz").write_bytes(lzma.compress(plain))
    for name in ("r.jsonl", "r.jsonl.gz", "r.jsonl.xz"):
        assert list(read_rationales(tmp_path / name)) == [RATIONALE, unknown]


@pytest.mark.parametrize(("field", "bad"), [(field, bad) for field, values in BAD.items() for bad in values])
def test_a_wrong_value_is_named_with_file_and_line(field: str, bad: Any) -> None:
    with pytest.raises(InputError) as caught:
        Rationale.from_json(RATIONALE.to_json() | {field: bad}, "positive.jsonl", 4)
    assert (caught.value.file, caught.value.line, caught.value.field) == ("positive.jsonl", 4, field)
    assert caught.value.remedy
    str(caught.value).encode()  # must be printable whatever was found


@pytest.mark.parametrize("field", [*IN_DOCS[Rationale].split(), "colour"])
def test_a_missing_or_unknown_field_is_named(field: str) -> None:
    value = RATIONALE.to_json()
    problem = "missing" if value.pop(field, None) is not None else "unknown"
    with pytest.raises(InputError, match=problem) as caught:
        Rationale.from_json(value if problem == "missing" else value | {field: "red"})
    assert caught.value.field == field


def test_reading_names_the_line(tmp_path: Path) -> None:
    lines = [json.dumps(QUESTION.to_json()), "", json.dumps(question(1).to_json() | {"gold": 3})]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    stream = read_questions(tmp_path / "questions.jsonl")
    assert next(stream) == QUESTION
    with pytest.raises(InputError) as caught:
        next(stream)
    assert (caught.value.line, caught.value.field) == (3, "gold")


def test_an_id_stands_once_where_that_matters(tmp_path: Path) -> None:
    write_rationales(tmp_path / "r.jsonl", [RATIONALE, RATIONALE])
    assert len(list(read_rationales(tmp_path / "r.jsonl"))) == 2
    write_questions(tmp_path / "q.jsonl", [QUESTION, QUESTION])
    for twice in (read_rationales(tmp_path / "r.jsonl", once=True), read_questions(tmp_path / "q.jsonl")):
        with pytest.raises(InputError, match="comes twice") as caught:
            list(twice)
        assert (caught.value.line, caught.value.field) == (2, "id")
