import hashlib
import json
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from datamodules.components.records.records import rationale_for, read_questions, read_rationales, write_rationales
from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import write_json_lines
from dust2gold.prepare.prepare import prepare
from dust2gold.prepare.summary import Summary


def teacher_line(gold: str, *answers: str, subject: str = "Algebra") -> dict[str, Any]:
    asked = {"question": f"Problem:\nWhat is {gold}?", "answer": f"It is $\\boxed{{{gold}}}$.", "level": "Level 1"}
    return {**asked, "generated_answer": [f"Solution:\nSo {answer}" for answer in answers], "type": subject}


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


def prepared(directory: Path, format: str, *rows: dict[str, Any]) -> Summary:
    """Prepares a file of these rows into `directory`."""
    path = directory.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return prepare(path, format, directory)


def test_files_and_summary(teacher: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    summary = prepare(teacher, "tdg", output).to_json()
    kept = json.loads((output / "summary.json").read_text())
    assert [tuple(row) for row in kept.pop("drawn")] == summary.pop("drawn")
    names = "negative.jsonl positive.jsonl questions.jsonl solutions.jsonl summary.json".split()
    assert sorted(path.name for path in output.iterdir()) == names
    half = {"questions": 1, "samples": 3, "positive": 1, "negative": 2, "ungradable": 0}
    assert summary == kept
    assert summary == {
        **{"grader": "string", "source": "math-train", "compares": "strings"},
        **{"questions": 2, "samples": 6, "positive": 2, "negative": 4, "ungradable": 0, "ungradable_because": {}},
        **{"without_answer": 1, "questions_with_positive": 2, "questions_with_negative": 2},
        "by_subject": {"Algebra": half, "Prealgebra": half},
        "input": {"name": "teacher.jsonl", "sha256": hashlib.sha256(teacher.read_bytes()).hexdigest()},
    }
    assert [q.gold for q in read_questions(output / "questions.jsonl")] == ["2", "6"]
    read = [r for name in ("positive", "negative") for r in read_rationales(output / f"{name}.jsonl")]
    right = [("0/0", "positive", "2"), ("1/1", "positive", "6")]
    wrong = [(k, "negative", answer) for k, answer in (("0/1", "3"), ("0/2", None), ("1/0", "3!"), ("1/2", "7"))]
    assert [(r.id.removeprefix("math-train-0000"), r.verdict, r.answer) for r in read] == [*right, *wrong]


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
    teacher.write_text(teacher.read_text().replace("no box", r"\\boxed{5}"))
    first, joined = prepare(teacher, "tdg", tmp_path / "first").to_json(), tmp_path / "all.jsonl"
    texts = [(tmp_path / "first" / f"{name}.jsonl").read_text() for name in ("positive", "negative")]
    joined.write_text("".join(texts).replace('"verdict": "negative"', '"verdict": "positive"'))
    again = prepare(joined, "records", tmp_path / "again").to_json()
    by_value = {"compares": "values", "drawn": again["drawn"]}  # by the gold answers, which are plain
    assert again == {**first, "input": again["input"], **by_value}
    for name in ("positive", "negative"):
        files = [tmp_path / directory / f"{name}.jsonl" for directory in ("first", "again")]
        before, after = (sorted(read_rationales(file), key=lambda r: r.id) for file in files)
        assert before == after


def test_solutions_are_right_rationales_that_box_their_answer(tmp_path: Path) -> None:
    math, gsm, none = tmp_path / "math", tmp_path / "gsm", tmp_path / "none"
    prepared(math, "math", {"problem": "p", "solution": "So \\boxed{3}.", "type": "Algebra", "level": "Level 1"})
    prepared(gsm, "gsm8k", {"question": "q", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"})
    (boxed,), (given,) = (read_rationales(directory / "solutions.jsonl") for directory in (math, gsm))
    expected = ("So \\boxed{3}.", "3", "positive", "dataset")
    assert (boxed.rationale, boxed.answer, boxed.verdict, boxed.writer) == expected
    assert boxed.id == f"{boxed.question_id}/solution"  # no sample's: NT, CL and RANK train on both
    assert (given.rationale, given.answer) == ("2 + 2 = 4\n#### 4", "4")  # what states its answer is left as it is
    for directory in (none, math):  # where an earlier run's stands
        prepared(directory, "multiarith", {"input": "q", "target": 4})
        assert not (directory / "solutions.jsonl").exists()


def test_plain_numbers_are_compared_by_value(tmp_path: Path) -> None:
    summary = prepared(tmp_path / "gsm", "gsm8k", {"question": "q", "answer": "#### 1,000"})
    assert (summary.questions, summary.samples, summary.compares) == (1, 0, "values")
    assert (tmp_path / "gsm" / "positive.jsonl").read_text() == ""
    (question,) = read_questions(tmp_path / "gsm" / "questions.jsonl")
    write_rationales(tmp_path / "samples.jsonl", [rationale_for(question, 0, "\\boxed{1{,}000.00}", "nat")])
    assert prepare(tmp_path / "samples.jsonl", "records", tmp_path / "out").positive == 1


def test_a_bad_line_leaves_what_was_there(teacher: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    prepare(teacher, "tdg", output)
    before = {path: path.read_bytes() for path in output.iterdir()}
    with teacher.open("a", encoding="utf-8") as stream:
        stream.write("{broken\n")
    with pytest.raises(InputError) as caught:
        prepare(teacher, "tdg", output)
    assert (caught.value.file, caught.value.line) == (str(teacher), 3)
    assert {path: path.read_bytes() for path in output.iterdir()} == before


def test_bad_paths(teacher: Path, tmp_path: Path) -> None:
    empty, out = tmp_path / "empty.jsonl", tmp_path / "out"
    empty.touch()
    for path, target, problem in (
        (tmp_path / "absent.jsonl", out, "no such file"),
        (tmp_path, out, "directory"),
        (empty, out, "no question"),
        (teacher, teacher, "cannot write"),
    ):
        with pytest.raises(InputError, match=problem):
            prepare(path, "tdg", target)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        row = teacher_line("2", *["\\boxed{2} " + "x" * 500] * 4)
        (tmp_path / "t.jsonl").write_text(f"{json.dumps(row)}\n" * lines)
        tracemalloc.start()
        prepare(tmp_path / "t.jsonl", "tdg", tmp_path / "out")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)
    assert peak(2000) < 1.3 * peak(600)  # a batch is 256 questions


def openr1_rows(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        texts = [f"<think>\n{number} {'and so on ' * 90}</think>\n\nIt is \\boxed{{{number + k}}}." for k in range(2)]
        yield {
            **{"problem": f"What is {number} + 0?", "answer": str(number), "generations": texts},
            **{"correctness_math_verify": [True, False], "is_reasoning_complete": [True, True]},
            "uuid": hashlib.md5(str(number).encode()).hexdigest(),
        }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_memory_stays_flat_over_100_000_rows(tmp_path: Path, kind: str) -> None:
    """Texts of 180 MB may cost no more than their ids do."""
    code = (
        "import sys\nfrom dust2gold import cli\nassert cli.main(sys.argv[1:]) == 0\n"
        "print([int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    peaks = []
    for count in (10_000, 100_000):
        file = tmp_path / f"{count}.{kind}"
        if kind == "jsonl":
            write_json_lines(file, openr1_rows(count))
        else:
            Dataset.from_generator(openr1_rows, gen_kwargs={"count": count}, cache_dir=str(tmp_path)).to_parquet(file)
        words = ["prepare", "--input", str(file), "--format", "openr1", "--output", str(tmp_path / "out")]
        done = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout.split()[-1]) // 1024)  # MiB
        assert json.loads((tmp_path / "out/summary.json").read_text())["positive"] == count
    assert peaks[1] - peaks[0] < 60, peaks


def test_the_papers_teacher_data(real_data: Path, tmp_path: Path) -> None:
    start = time.process_time()
    summary = prepare(real_data / "gpt-3.5-turbo-math-train.jsonl.xz", "tdg", tmp_path)
    assert time.process_time() - start < 60
    assert (summary.questions, summary.samples) == (7500, 60000)
    assert (summary.positive, summary.negative, summary.ungradable) == (21127, 38873, 0)
    assert summary.without_answer == 786
    assert (summary.questions_with_positive, summary.questions_with_negative) == (4671, 6468)
    expected = {"Algebra": 7284, "Prealgebra": 5606, "Number Theory": 2076, "Counting & Probability": 1814}
    expected |= {"Intermediate Algebra": 1761, "Geometry": 1351, "Precalculus": 1235}
    assert {subject: counts.positive for subject, counts in summary.by_subject.items()} == expected


@pytest.mark.parametrize("gold", ["#### 18", "18", "They are 9 + 9.\n#### 18"])
@pytest.mark.parametrize("grader", ["string", "semantic", "both"])
def test_right_answers_are_no_negatives_for_want_of_a_box(gold: str, grader: str, tmp_path: Path) -> None:
    row = {**teacher_line("0", "the answer is 18.", "Answer: 19", "I give up"), "answer": gold}
    path = tmp_path / "teacher.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    summary = prepare(path, "tdg", tmp_path / "out", grader)
    assert (summary.positive, summary.negative, summary.ungradable_because) == (1, 1, {"no answer stated": 1})
    assert {(answer, verdict) for _, answer, _, verdict in summary.drawn} == {
        ("18", "positive"),
        ("19", "negative"),
        (None, "ungradable"),
    }


def test_a_pattern_finds_answers_to_boxed_questions(teacher: Path, tmp_path: Path) -> None:
    summary = prepare(teacher, "tdg", tmp_path / "out", answer_pattern=re.compile(r"So (no) box"))
    assert (summary.positive, summary.negative, summary.without_answer) == (2, 4, 0)
