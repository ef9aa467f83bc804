from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.records.records import Question, Rationale, write_questions, write_rationales
from dust2gold.core.errors import InputError
from dust2gold.prepare.readers import FORMATS, Entry, compares_by_value, read


def entries(tmp_path: Path, format: str, *rows: dict[str, Any], source: str | None = None) -> list[Entry]:
    path = tmp_path / "data.jsonl.xz"
    with lzma.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    return list(read(path, format, source))


TDG = {
    "question": "Problem:\nWhat is $1+1$?",
    "answer": "We add: $\\boxed{2}$.",
    "generated_answer": ["Solution:\n$\\boxed{2}$", "Solution: $\\boxed{3}$", "The Solution: none"],
    "level": "Level 1",
    "type": "Prealgebra",
}


def test_tdg(tmp_path: Path) -> None:
    bare = TDG | {"question": "What is a Problem:\nhere?"}
    first, second = entries(tmp_path, "tdg", TDG, bare)
    assert first.question == Question(
        "math-train-00000", "What is $1+1$?", "2", "We add: $\\boxed{2}$.", "Prealgebra", "Level 1", "math-train"
    )
    assert [r.rationale for r in first.rationales] == ["$\\boxed{2}$", "$\\boxed{3}$", "The Solution: none"]
    assert [r.id for r in first.rationales] == [f"math-train-00000/{k}" for k in range(3)]
    assert {(r.writer, r.verdict, r.answer, r.gold) for r in first.rationales} == {("teacher", "ungradable", None, "2")}
    assert second.question.question == "What is a Problem:\nhere?"
    assert second.question.id == "math-train-00001"


@pytest.mark.parametrize(
    ("format", "row", "question", "gold"),
    [
        ("math", {"problem": " Why? ", "solution": "$\\boxed{\\frac12}$", "level": "", "type": ""}, "Why?", "\\frac12"),
        ("gsm8k", {"question": "How many?", "answer": "It is 1*2 = <<1*2=2>>2\n#### 1,080"}, "How many?", "1080"),
        ("gsm8k", {"question": "How much?", "answer": "#### -10"}, "How much?", "-10"),
        (
            "asdiv",
            {"body": "A.", "question": "B?", "solution_type": "s", "formula": "f", "answer": "9 (apples)"},
            "A. B?",
            "9",
        ),
        (
            "asdiv",
            {"body": "", "question": "B?", "solution_type": "s", "formula": "f", "answer": "14  (seats)"},
            "B?",
            "14",
        ),
        (
            "asdiv",
            {"body": "", "question": "B?", "solution_type": "s", "formula": "f", "answer": "They are equal"},
            "B?",
            "They are equal",
        ),
        (
            "asdiv",
            {"body": "", "question": "B?", "solution_type": "s", "formula": "f", "answer": "-(1/3)"},
            "B?",
            "-(1/3)",
        ),
        (
            "svamp",
            {"Body": "If so", "Question": "B?", "Answer": 145.0, "Equation": "e", "Type": "t"},
            "If so, B?",
            "145",
        ),
        ("svamp", {"Body": "So.", "Question": "B?", "Answer": "2.50", "Equation": "e", "Type": "t"}, "So. B?", "2.5"),
        ("multiarith", {"input": "B?", "target": 39}, "B?", "39"),
        ("multiarith", {"question": "B?", "final_ans": "39"}, "B?", "39"),
    ],
)
def test_question_and_gold(tmp_path: Path, format: str, row: dict[str, Any], question: str, gold: str) -> None:
    (entry,) = entries(tmp_path, format, row, source="mine")
    assert (entry.question.question, entry.question.gold) == (question, gold)
    assert (entry.question.id, entry.question.source, entry.rationales) == ("mine-00000", "mine", [])


def test_gsm8k_solution_loses_the_calculator_marks(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, "gsm8k", {"question": "q", "answer": "48/2 = <<48/2=24>>24 clips\n#### 24"})
    assert entry.question.solution == "48/2 = 24 clips\n#### 24"


@pytest.mark.parametrize(
    ("format", "row", "field"),
    [
        ("tdg", TDG | {"generated_answer": "one"}, "generated_answer"),
        ("tdg", TDG | {"generated_answer": ["one", 2]}, "generated_answer"),
        ("tdg", TDG | {"question": "Problem:\n "}, "question"),
        ("tdg", {"problem": "of another format"}, "answer"),
        ("math", {"problem": "", "solution": "", "level": "", "type": ""}, "problem"),
        ("math", {"problem": 3, "solution": "", "level": "", "type": ""}, "problem"),
        ("gsm8k", {"question": "q", "answer": "no mark"}, "answer"),
        ("svamp", {"Body": "b", "Question": "q", "Answer": "many", "Equation": "", "Type": ""}, "Answer"),
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


def rationale(question: str, k: int, gold: str = "2") -> Rationale:
    return Rationale(
        f"{question}/{k}",
        question,
        f"Text of {question}",
        gold,
        f"\\boxed{{{k}}}",
        "old",
        "positive",
        "s",
        "l",
        "toy",
        "nat",
        seed=k,
    )


def test_records_keep_what_they_know_and_group_by_question(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    write_rationales(path, [rationale("a", 0), rationale("a", 1), rationale("b", 0), rationale("a", 2)])
    found = list(read(path, "records"))
    assert [(e.question.id, [r.id for r in e.rationales]) for e in found] == [
        ("a", ["a/0", "a/1"]),
        ("b", ["b/0"]),
        ("a", ["a/2"]),
    ]
    assert {(r.verdict, r.answer, r.writer, r.source) for e in found for r in e.rationales} == {
        ("ungradable", None, "nat", "toy")
    }
    assert found[2].rationales[0].seed == 2


def test_question_records_stay_themselves(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    questions = [Question("a", "x?", "1", "s", "t", "l", "toy"), Question("b", "y?", "2", "s", "t", "l", "toy")]
    write_questions(path, questions)
    assert [entry.question for entry in read(path, "records")] == questions


@pytest.mark.parametrize(("gold", "by_value"), [("\\frac{1}{2}", False), ("1,000", True)])
def test_records_are_compared_as_their_gold_answers_want(tmp_path: Path, gold: str, by_value: bool) -> None:
    path = tmp_path / "samples.jsonl"
    write_rationales(path, [rationale("a", 0), rationale("b", 0, gold)])
    assert compares_by_value(path, "records") is by_value


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
