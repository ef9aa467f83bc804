"""Test questions that stand in the training set, too."""

import json
from pathlib import Path

import pytest

from datamodules.components.records.records import Question, write_questions
from dust2gold.prepare.readers import read
from dust2gold.run.leaks import Leak, find_leaks, normalised
from tests.dust2gold.run.conftest import World
from tests.records import question


def write(run: Path, place: str, *texts: str, source: str = "nuts") -> None:
    (run / place).mkdir(parents=True, exist_ok=True)
    made = [question(number, question=text, source=source) for number, text in enumerate(texts)]
    write_questions(run / place / "questions.jsonl", made)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("If $y = x^2 + 1$, what\nis  $y$?", "if $y=x^{2}+1,$ what is $y$? "),
        (r"Find $\dfrac{1}{2} \left( 3 \right)$.", r"Find $\frac12(3).$"),
        (r"What is $a\,b$~?", r"What is $a\ b$?"),
        (r"\[x \quad (1)\]", r"\[x\;(1)\]"),
    ],
)
def test_layout_makes_no_other_question(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Compute $\cos 150^\circ$.", r"Compute $\cos (-150^\circ)$."),  # four pairs of MATH
        (r"Compute $\tan 22.5^\circ.$", r"Compute $\tan 225^\circ$."),
        ("$x^8 + 98x^4$", "$x^8 - 98x^4$"),
        ("$x^{23}$", "$x^{2}3$"),
        ("Add 1 2 times.", "Add 12 times."),
        ("Find $f(-x)$.", "Find $f(x)$."),
        (r"Is $a \le b$?", r"Is $a \left b$?"),
    ],
)
def test_what_has_another_answer_is_another_question(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_each_test_set_of_a_run_is_compared(tmp_path: Path) -> None:
    assert find_leaks(tmp_path) == []
    write(tmp_path, "test", "What is $2$?", "What is 3?", "what  is 2?", source="math")
    assert find_leaks(tmp_path) == [], "there is no training set"
    write(tmp_path, "data", "What is 2?", "What is 4?", "What is -6?")
    write(tmp_path, "tests/b", "What is 5?", source="b")
    write(tmp_path, "tests/a", "What is 4?", source="a")
    write(tmp_path, "tests/c", "What is 6?", "What is 66?", source="c")
    assert find_leaks(tmp_path) == [
        Leak("math", 3, ["q0", "q2"], []),
        Leak("a", 1, ["q0"], []),
        Leak("b", 1, [], []),
        Leak("c", 2, [], ["q0"]),
    ]


def test_run_names_them_before_it_trains(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def make_data() -> int:
        write(Path("runs/t"), "data", *(f"What is {number}?" for number in range(9)))
        write(Path("runs/t"), "test", *(f"what is  ${number}$?" for number in range(9)), "What is 10?")
        Path("runs/t/data/a.txt").write_text("a")
        return 0

    def train() -> int:
        told.append(capsys.readouterr().err)
        return 1

    told: list[str] = []
    world.edit('needs=("data",)', 'needs=("data",), students=("embedded",)')
    world.trouble = {"source.txt": make_data, "fit/1.txt": train}
    world.fails()
    assert told == [
        "warning: 9 of 10 questions of nuts stand in the training set, too, and 0 more differ from one there in signs "
        "or punctuation alone: q0, q1, q2, q3, q4, ...; accuracy on them says little about new questions\n"
    ]


def test_the_papers_data(real_data: Path, tmp_path: Path) -> None:
    """Four questions of MATH's test set stand in the teacher's file, none of the other test sets' does.

    Six more have the letters, digits and points of one there, but other signs.
    """
    files = {"data": ("gpt-3.5-turbo-math-train", "tdg"), "test": ("math-test", "math")}
    names = {"gsm8k": "gsm8k-test", "asdiv": "asdiv", "svamp": "svamp", "multiarith": "multiarith"}
    files |= {f"tests/{format}": (file, format) for format, file in names.items()}
    for place, (file, format) in files.items():
        questions: list[Question] = [entry.question for entry in read(real_data / f"{file}.jsonl.xz", format)]
        (tmp_path / place).mkdir(parents=True)
        write_questions(tmp_path / place / "questions.jsonl", questions)
    math, *others = find_leaks(tmp_path)
    assert (math.questions, [int(name[-5:]) for name in math.shared]) == (5000, [311, 1038, 3023, 4656])
    assert [int(name[-5:]) for name in math.alike] == [2121, 2157, 2339, 2432, 2638, 4678]
    assert [leak.shared + leak.alike for leak in others] == [[]] * 4
    rows = [json.loads(line) for line in (tmp_path / "test/questions.jsonl").read_text().splitlines()]
    assert rows[3023]["question"].startswith("Let $f$ be a linear function for which $f(6) - f(2) = 12.$")
