import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.records.records import Question, rationale_for, write_questions, write_rationales
from dust2gold.core.errors import InputError
from dust2gold.prepare.formats import FORMATS
from dust2gold.prepare.readers import Entry, compares_by_value, read
from tests.records import question, rationale

TDG: dict[str, Any] = {"question": "Problem:\nWhat is $1+1$?", "level": "Level 1", "type": "Prealgebra"}
TDG |= {"generated_answer": ["Solution:\n$\\boxed{2}$", "Solution: $\\boxed{3}$", "The Solution: none"]}
TDG |= {"answer": "We add: $\\boxed{2}$."}
MATH = {"problem": " Why? ", "solution": "$\\boxed{\\frac12}$", "level": "", "type": ""}
ASDIV = {"body": "", "question": "B?", "solution_type": "s", "formula": "f"}
SVAMP = {"Body": "If so", "Question": "B?", "Answer": 145.0, "Equation": "e", "Type": "t"}


def entries(tmp_path: Path, format: str, *rows: dict[str, Any], source: str | None = None) -> list[Entry]:
    path = tmp_path / "data.jsonl.xz"
    with lzma.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    return list(read(path, format, source))


def test_tdg(tmp_path: Path) -> None:
    first, second = entries(tmp_path, "tdg", TDG, TDG | {"question": "What is a Problem:\nhere?"})
    texts = ("What is $1+1$?", "2", "We add: $\\boxed{2}$.", "Prealgebra", "Level 1", "math-train")
    assert first.question == Question("math-train-00000", *texts)
    rationales = ["$\\boxed{2}$", "$\\boxed{3}$", "The Solution: none"]
    assert first.rationales == [rationale_for(first.question, k, text, "teacher") for k, text in enumerate(rationales)]
    assert (second.question.id, second.question.question) == ("math-train-00001", "What is a Problem:\nhere?")


@pytest.mark.parametrize(
    ("format", "row", "question", "gold"),
    [
        ("math", MATH, "Why?", "\\frac12"),
        ("gsm8k", {"question": "How many?", "answer": "It is 1*2 = <<1*2=2>>2\n#### 1,080"}, "How many?", "1080"),
        ("gsm8k", {"question": "How much?", "answer": "#### -10"}, "How much?", "-10"),
        ("asdiv", ASDIV | {"body": "A.", "answer": "9 (apples)"}, "A. B?", "9"),
        ("asdiv", ASDIV | {"answer": "14  (seats)"}, "B?", "14"),
        ("asdiv", ASDIV | {"answer": "They are equal"}, "B?", "They are equal"),
        ("asdiv", ASDIV | {"answer": "-(1/3)"}, "B?", "-(1/3)"),
        ("svamp", SVAMP, "If so, B?", "145"),
        ("svamp", SVAMP | {"Body": "So.", "Answer": "2.50"}, "So. B?", "2.5"),
        ("multiarith", {"input": "B?", "target": 39}, "B?", "39"),
        ("multiarith", {"question": "B?", "final_ans": "39"}, "B?", "39"),
    ],
)
def test_question_and_gold(tmp_path: Path, format: str, row: dict[str, Any], question: str, gold: str) -> None:
    (entry,) = entries(tmp_path, format, row, source="mine")
    assert (entry.question.question, entry.question.gold) == (question, gold)
    assert (entry.question.id, entry.question.source, entry.rationales) == ("mine-00000", "mine", [])
    assert "<<" not in entry.question.solution  # GSM8K's calculator marks


@pytest.mark.parametrize(
    ("format", "row", "field"),
    [
        ("tdg", TDG | {"generated_answer": "one"}, "generated_answer"),
        ("tdg", TDG | {"generated_answer": ["one", 2]}, "generated_answer"),
        ("tdg", TDG | {"question": "Problem:\n "}, "question"),
        ("tdg", {"problem": "of another format"}, "answer"),
        ("math", MATH | {"problem": ""}, "problem"),
        ("math", MATH | {"problem": 3}, "problem"),
        ("gsm8k", {"question": "q", "answer": "no mark"}, "answer"),
        ("svamp", SVAMP | {"Answer": "many"}, "Answer"),
        ("multiarith", {"input": "q", "target": None}, "target"),
        ("multiarith", {"input": "q", "target": True}, "target"),
        ("multiarith", {"input": "\ud800", "target": 1}, "input"),
        ("records", {"schema": 1, "id": "a"}, "question"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_line(
    tmp_path: Path, format: str, row: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError) as caught:
        entries(tmp_path, format, row)
    assert (caught.value.line, caught.value.field) == (1, field)
    assert str(caught.value.file).endswith("data.jsonl.xz")


def test_an_unknown_format_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="asdiv"):
        read(tmp_path / "x.jsonl", "csv")


def test_records_keep_what_they_know_and_group_by_question(tmp_path: Path) -> None:
    samples = [rationale(q, k, writer="nat", seed=k) for q, k in ((1, 0), (1, 1), (2, 0), (1, 2))]
    write_rationales(tmp_path / "samples.jsonl", samples)
    ungraded = [rationale(q, k, writer="nat", seed=k, answer=None, verdict="ungradable") for q, k in ((1, 0), (1, 1))]
    found = list(read(tmp_path / "samples.jsonl", "records"))
    assert found[0] == Entry(question(1), ungraded, alone=False)
    assert [[r.id for r in e.rationales] for e in found] == [["q1/0", "q1/1"], ["q2/0"], ["q1/2"]]
    questions = [question(q, solution="s") for q in range(2)]
    write_questions(tmp_path / "questions.jsonl", questions)
    assert list(read(tmp_path / "questions.jsonl", "records")) == [Entry(asked, [], alone=False) for asked in questions]


def test_two_questions_of_one_id_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    write_rationales(file, [rationale(1, 0), rationale(2, 0), rationale(1, 1, question="Another one?")])
    with pytest.raises(InputError, match="another question has the id 'q1' in line 1") as caught:
        list(read(file, "records"))
    assert (caught.value.line, caught.value.field) == (3, "question")


@pytest.mark.parametrize(("gold", "by_value"), [("\\frac{1}{2}", False), ("1,000", True)])
def test_records_are_compared_as_their_gold_answers_want(tmp_path: Path, gold: str, by_value: bool) -> None:
    write_rationales(tmp_path / "samples.jsonl", [rationale(0), rationale(1, gold=gold)])
    assert compares_by_value(tmp_path / "samples.jsonl", "records") is by_value


@pytest.mark.parametrize(
    ("format", "file", "questions", "rationales", "plain"),
    [
        ("tdg", "gpt-3.5-turbo-math-train", 7500, 60000, 0),
        ("math", "math-test", 5000, 0, 0),
        ("gsm8k", "gsm8k-train", 7473, 0, 7473),
        ("gsm8k", "gsm8k-test", 1319, 0, 1319),
        ("asdiv", "asdiv", 2215, 0, 2084),
        ("svamp", "svamp", 1000, 0, 1000),
        ("multiarith", "multiarith", 600, 0, 600),
    ],
)
def test_the_publishers_files(
    real_data: Path, format: str, file: str, questions: int, rationales: int, plain: int
) -> None:
    counts = [0, 0, 0]
    for entry in read(real_data / f"{file}.jsonl.xz", format):
        assert entry.question.gold
        assert "<<" not in entry.question.solution
        assert not entry.question.question.startswith("Problem:")
        assert not any(r.rationale.startswith("Solution:") for r in entry.rationales)
        counts[0] += 1
        counts[1] += len(entry.rationales)
        counts[2] += FORMATS[format].by_value is True and entry.question.gold.lstrip("-").replace(".", "", 1).isdigit()
    assert counts == [questions, rationales, plain]
