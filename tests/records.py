"""Records and files for tests: word problems with one sum each, short enough for the tiny student's context."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.components.records.records import Question, Rationale, Verdict, write_questions, write_rationales


def question(number: int, **changes: Any) -> Question:
    """Question `q<number>`; even ones are of subject Algebra, odd ones of Geometry."""
    text = f"Ann has {number} nuts and finds {number + 2}. How many?"
    about = ("Algebra", "Level 1") if number % 2 == 0 else ("Geometry", "Level 2")
    solution = ""
    return replace(Question(f"q{number}", text, str(2 * number + 2), solution, *about, source="nuts"), **changes)


def rationale(number: int, k: int = 0, **changes: Any) -> Rationale:
    """Sample `q<number>/<k>`, right if k is even; the texts differ in length by `k` and by `number`."""
    q, right = question(number), k % 2 == 0
    answer = str(2 * number + 2 + (not right))
    verdict: Verdict = "positive" if right else "negative"
    text = "So " * ((3 * number + k) % 7) + f"{number}+{number + 2}=\\boxed{{{answer}}}"
    about = (q.subject, q.level, q.source, "teacher")
    return replace(Rationale(f"{q.id}/{k}", q.id, q.question, q.gold, text, answer, verdict, *about), **changes)


def write_positive(path: Path, questions: int = 12, samples: int = 2, **changes: Any) -> str:
    """Writes `questions` · `samples` right rationales and returns the file's name."""
    write_rationales(path, [rationale(q, 2 * k, **changes) for q in range(questions) for k in range(samples)])
    return str(path)


def write_held(path: Path, questions: int = 3, samples: int = 1) -> str:
    """The same by another writer, to validate on: none of them stands in a file of `write_positive`."""
    return write_positive(path, questions, samples, writer="held")


def write_asked(path: Path, questions: int = 6) -> str:
    """Writes the first so many questions and returns the file's name."""
    write_questions(path, [question(number) for number in range(questions)])
    return str(path)
