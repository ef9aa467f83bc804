from __future__ import annotations

import hashlib
import io
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.grading.answers import extract_answer
from datamodules.components.records.records import rationale_for, read_questions, read_rationales, write_rationales
from dust2gold.core.errors import InputError
from dust2gold.prepare.prepare import prepare
from dust2gold.prepare.summary import print_summary


def teacher_line(gold: str, *answers: str, subject: str = "Algebra") -> dict[str, Any]:
    return {
        "question": f"Problem:\nWhat is {gold}?",
        "answer": f"It is $\\boxed{{{gold}}}$.",
        "generated_answer": [f"Solution:\nSo {answer}" for answer in answers],
        "level": "Level 1",
        "type": subject,
    }


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """Two subjects; one rationale without a box, one that only algebra finds right."""
    rows = [
        teacher_line("2", "\\boxed{2}", "\\boxed{3}", "no box"),
        teacher_line("6", "\\boxed{3!}", "\\boxed{6}", "\\boxed{7}", subject="Prealgebra"),
    ]
    path = tmp_path / "teacher.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_and_summary(teacher: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    summary = prepare(teacher, "tdg", output).to_json()
    names = "negative.jsonl positive.jsonl questions.jsonl solutions.jsonl summary.json".split()
    assert sorted(path.name for path in output.iterdir()) == names
    assert summary == json.loads((output / "summary.json").read_text())
    expected = {
        **{"questions": 2, "samples": 6, "positive": 2, "negative": 4, "ungradable": 0, "without_answer": 1},
        **{"grader": "string", "source": "math-train", "compares": "strings"},
        **{"questions_with_positive": 2, "questions_with_negative": 2},
        "input": {"name": "teacher.jsonl", "sha256": hashlib.sha256(teacher.read_bytes()).hexdigest()},
    }
    assert {key: summary[key] for key in expected} == expected
    half = {"questions": 1, "samples": 3, "positive": 1, "negative": 2, "ungradable": 0}
    assert summary["by_subject"] == {"Algebra": half, "Prealgebra": half}
    assert [q.gold for q in read_questions(output / "questions.jsonl")] == ["2", "6"]
    read = [r for name in ("positive", "negative") for r in read_rationales(output / f"{name}.jsonl")]
    found = [(r.id, r.verdict, r.answer) for r in read]
    assert found == [
        ("math-train-00000/0", "positive", "2"),
        ("math-train-00001/1", "positive", "6"),
        ("math-train-00000/1", "negative", "3"),
        ("math-train-00000/2", "negative", None),
        ("math-train-00001/0", "negative", "3!"),
        ("math-train-00001/2", "negative", "7"),
    ]


@pytest.mark.parametrize(("grader", "counts"), [("semantic", (3, 3, 0)), ("both", (2, 3, 1))])
def test_the_graders_and_the_stale_file_of_the_ungradable(
    teacher: Path, tmp_path: Path, grader: str, counts: tuple[int, int, int]
) -> None:
    output = tmp_path / "out"
    summary = prepare(teacher, "tdg", output, grader, workers=1)
    assert (summary.positive, summary.negative, summary.ungradable) == counts
    assert (output / "ungradable.jsonl").exists() is (summary.ungradable > 0)
    assert summary.ungradable_because == ({"the graders disagree": 1} if grader == "both" else {})
    prepare(teacher, "tdg", output)
    assert not (output / "ungradable.jsonl").exists()


def test_limit_samples_and_source(teacher: Path, tmp_path: Path) -> None:
    summary = prepare(teacher, "tdg", tmp_path / "out", limit=1, max_samples=2, source="mine")
    assert (summary.questions, summary.samples, summary.source) == (1, 2, "mine")
    assert [q.id for q in read_questions(tmp_path / "out" / "questions.jsonl")] == ["mine-00000"]


def test_records_of_several_files_put_together_are_graded_anew(teacher: Path, tmp_path: Path) -> None:
    first = prepare(teacher, "tdg", tmp_path / "first")
    joined = tmp_path / "all.jsonl"
    texts = [(tmp_path / "first" / f"{name}.jsonl").read_text() for name in ("positive", "negative")]
    joined.write_text("".join(texts).replace('"verdict": "negative"', '"verdict": "positive"'))
    again = prepare(joined, "records", tmp_path / "again")
    same = "questions samples positive negative by_subject questions_with_positive questions_with_negative".split()
    assert {key: getattr(again, key) for key in same} == {key: getattr(first, key) for key in same}
    for name in ("positive", "negative"):
        files = [tmp_path / directory / f"{name}.jsonl" for directory in ("first", "again")]
        before, after = (sorted(read_rationales(file), key=lambda r: r.id) for file in files)
        assert before == after


def test_solutions_are_right_rationales_that_box_their_answer(tmp_path: Path) -> None:
    math, gsm, none = tmp_path / "math.jsonl", tmp_path / "gsm.jsonl", tmp_path / "none.jsonl"
    math.write_text(json.dumps({"problem": "p", "solution": "So \\boxed{3}.", "type": "Algebra", "level": "Level 1"}))
    gsm.write_text('{"question": "q", "answer": "2 + 2 = <<2+2=4>>4\\n#### 4"}\n')
    none.write_text('{"input": "q", "target": 4}\n')
    for name, format in (("math", "math"), ("gsm", "gsm8k"), ("none", "multiarith")):
        prepare(tmp_path / f"{name}.jsonl", format, tmp_path / name)
        assert (tmp_path / name / "solutions.jsonl").exists() == (name != "none")
    (boxed,) = read_rationales(tmp_path / "math" / "solutions.jsonl")
    found = boxed.rationale, boxed.answer, boxed.verdict, boxed.writer
    assert found == ("So \\boxed{3}.", "3", "positive", "dataset")
    (given,) = read_rationales(tmp_path / "gsm" / "solutions.jsonl")
    assert given.rationale.startswith("2 + 2 = 4")
    assert extract_answer(given.rationale) == given.gold == "4"
    prepare(none, "multiarith", tmp_path / "math")
    assert not (tmp_path / "math" / "solutions.jsonl").exists(), "an earlier run's"


def test_plain_numbers_are_compared_by_value(tmp_path: Path) -> None:
    gsm = tmp_path / "gsm.jsonl"
    gsm.write_text('{"question": "q", "answer": "#### 1,000"}\n')
    summary = prepare(gsm, "gsm8k", tmp_path / "gsm")
    assert (summary.questions, summary.samples, summary.compares) == (1, 0, "values")
    assert (tmp_path / "gsm" / "positive.jsonl").read_text() == ""
    (question,) = read_questions(tmp_path / "gsm" / "questions.jsonl")
    write_rationales(tmp_path / "samples.jsonl", [rationale_for(question, 0, "\\boxed{1{,}000.00}", "nat")])
    assert prepare(tmp_path / "samples.jsonl", "records", tmp_path / "out").positive == 1


def test_a_bad_line_leaves_what_was_there(teacher: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    prepare(teacher, "tdg", output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with teacher.open("a", encoding="utf-8") as stream:
        stream.write("{broken\n")
    with pytest.raises(InputError) as caught:
        prepare(teacher, "tdg", output)
    assert (caught.value.file, caught.value.line) == (str(teacher), 3)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_bad_paths(teacher: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for path, problem in [(tmp_path / "absent.jsonl", "no such file"), (tmp_path, "directory"), (empty, "no question")]:
        with pytest.raises(InputError, match=problem):
            prepare(path, "tdg", tmp_path / "out")
    with pytest.raises(InputError, match="cannot write"):
        prepare(teacher, "tdg", teacher)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        path = tmp_path / f"{lines}.jsonl"
        row = json.dumps(teacher_line("2", *["\\boxed{2} " + "x" * 500] * 4))
        path.write_text(f"{row}\n" * lines)
        tracemalloc.start()
        prepare(path, "tdg", tmp_path / "out")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)
    assert peak(2000) < 1.3 * peak(600)  # a batch is 256 questions


def test_the_table_of_questions_alone_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"input": "q", "target": 3}\n')
    stream = io.StringIO()
    print_summary(prepare(path, "multiarith", tmp_path / "out"), stream)
    assert "questions only" in stream.getvalue()
    assert "(no subject)" in stream.getvalue()


def test_the_papers_teacher_data(real_data: Path, tmp_path: Path) -> None:
    start = time.process_time()
    summary = prepare(real_data / "gpt-3.5-turbo-math-train.jsonl.xz", "tdg", tmp_path)
    assert time.process_time() - start < 60
    assert (summary.questions, summary.samples) == (7500, 60000)
    assert (summary.positive, summary.negative, summary.ungradable) == (21127, 38873, 0)
    assert summary.without_answer == 786
    assert (summary.questions_with_positive, summary.questions_with_negative) == (4671, 6468)
    assert {subject: counts.positive for subject, counts in summary.by_subject.items()} == {
        "Algebra": 7284,
        "Prealgebra": 5606,
        "Number Theory": 2076,
        "Counting & Probability": 1814,
        "Intermediate Algebra": 1761,
        "Geometry": 1351,
        "Precalculus": 1235,
    }
