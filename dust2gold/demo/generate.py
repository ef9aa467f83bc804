"""The verb `generate`: a teacher's samples and held-out test questions, in the publishers' own formats.

`train.jsonl` has the fields of the paper's teacher data (`prepare --format tdg`), `test.jsonl` those of MATH or of
another publisher (`test_format`), so that generated data goes the same way as real data. `generate.json` keeps the
arguments; it is written last.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.components.grading.answers import canonical
from datamodules.components.grading.extraction import extract_answer
from dust2gold.core.errors import InputError
from dust2gold.core.files import write_json
from dust2gold.core.jsonl import write_json_lines
from dust2gold.demo.problems import LONGEST, SUBJECTS, Problem, ProblemWriter
from dust2gold.demo.teacher import LEVELS, MOST_REDRAWS, TEACHERS, Teacher
from dust2gold.demo.wording import WORDINGS

Writer = Callable[[int, Problem, Teacher], dict[str, Any]]
"""From a question's number, the problem and the teacher to a line of test.jsonl."""


def _math(index: int, problem: Problem, teacher: Teacher) -> dict[str, Any]:
    return {
        "problem": problem.text,
        "level": f"Level {problem.level}",
        "type": problem.subject,
        "solution": teacher.correct_solution(problem),
        "idx": index,
    }


def _gsm8k(index: int, problem: Problem, teacher: Teacher) -> dict[str, Any]:
    """Steps with the calculator's marks, the answer after `####`."""
    steps = [f"{s.left} {s.op} {s.right} = <<{s.left}{s.op}{s.right}={s.result}>>{s.result}" for s in problem.steps]
    return {"question": problem.text, "answer": "\n".join([*steps, f"#### {problem.answer}"])}


TEST_FORMATS: dict[str, Writer] = {
    "math": _math,
    "gsm8k": _gsm8k,
    "multiarith": lambda index, problem, teacher: {"input": problem.text, "target": problem.answer},
}
"""Of held-out questions, by the name that `prepare --format` knows them by."""


@dataclass(frozen=True)
class Recipe:
    """What is generated; the same recipe gives the same bytes."""

    train_questions: int = 1500  # 0 writes no train.jsonl
    test_questions: int = 600  # held out; drawn first, so that they depend on no other count
    samples: int = 8  # rationales per training question
    seed: int = 0  # of the questions and of the teacher
    teacher: str = "slips"  # what it does wrong: a key of TEACHERS
    levels: tuple[int, ...] = (1, 2, 3, 4, 5)  # numbers of steps, 1 to 6, in the shares of LEVELS; subjects take turns
    notation: float = 0.0  # share of boxed answers not in plain digits (`teacher.other_notation`)
    wording: str = "plain"  # a key of WORDINGS
    test_format: str = "math"  # a key of TEST_FORMATS
    largest: int = 60  # number a story starts with or adds
    factor: int = 9  # largest multiplier, divisor or price

    def __post_init__(self) -> None:
        """Refuses what cannot be generated, naming the field."""
        zero = dict.fromkeys(("train_questions", "seed", "notation"), 0)
        for field, bound in {**zero, "test_questions": 1, "samples": 1, "largest": 6, "factor": 2}.items():
            if getattr(self, field) < bound:
                raise InputError(f"{getattr(self, field)} is too small", field=field, remedy=f"give at least {bound}")
        levels = range(1, LONGEST + 1)
        if not self.levels or not set(self.levels) <= set(levels):
            remedy = f"give some of {','.join(map(str, levels))} (steps per problem)"
            raise InputError(f"{list(self.levels)} are not levels", field="levels", remedy=remedy)
        if self.wording != "plain" and self.train_questions:
            raise InputError("the teacher answers plain questions only", field="wording", remedy="--train-questions 0")


@dataclass
class LevelCount:
    """How the teacher did on one level."""

    questions: int = 0
    samples: int = 0
    right: int = 0


def generate(output: Path, recipe: Recipe) -> dict[int, LevelCount]:
    """Writes `train.jsonl`, `test.jsonl` and `generate.json` into `output`, each whole or not at all.

    No question text occurs twice, neither within a split nor across them. Returns the teacher's counts by level, in
    ascending order.

    Raises:
        InputError: If `output` cannot be written, or there are fewer distinct questions than asked for.
    """
    seen: set[str] = set()
    test = list(_distinct_problems(recipe, "test", recipe.test_questions, seen))
    train = list(_distinct_problems(recipe, "train", recipe.train_questions, seen))
    counts = {level: LevelCount() for level in sorted(set(recipe.levels))}
    teacher = Teacher(recipe.seed, TEACHERS[recipe.teacher], notation=recipe.notation)
    if train:
        write_json_lines(output / "train.jsonl", _train_records(train, teacher, recipe.samples, counts))
    else:
        (output / "train.jsonl").unlink(missing_ok=True)  # an earlier recipe's
    write = TEST_FORMATS[recipe.test_format]
    write_json_lines(output / "test.jsonl", (write(index, problem, teacher) for index, problem in enumerate(test)))
    write_json(output / "generate.json", asdict(recipe), indent=2)
    return counts


def _distinct_problems(recipe: Recipe, split: str, count: int, seen: set[str]) -> Iterator[Problem]:
    rng = random.Random(f"{recipe.seed}/{split}")
    writer = ProblemWriter(rng, recipe.largest, recipe.factor, WORDINGS[recipe.wording])
    drawn = dict.fromkeys(sorted(set(recipe.levels)), 0)
    total = sum(LEVELS[level].questions for level in drawn)
    for index in range(count):
        # The level that lacks most: the first n questions have each level's share of n to within one, for every n.
        level = max(drawn, key=lambda each: LEVELS[each].questions / total * (index + 1) - drawn[each])
        subject = SUBJECTS[drawn[level] % len(SUBJECTS)]
        drawn[level] += 1
        for _ in range(MOST_REDRAWS):
            problem = writer.draw(level, subject)
            if problem.text not in seen:
                break
        else:
            shortage = f"no new level-{level} question on {subject} after {index} {split} questions"
            raise InputError(shortage, remedy="ask for fewer questions, or raise --largest, --factor or --levels")
        seen.add(problem.text)
        yield problem


def _train_records(
    problems: Sequence[Problem], teacher: Teacher, samples: int, counts: dict[int, LevelCount]
) -> Iterator[dict[str, Any]]:
    for index, problem in enumerate(problems):
        rate = teacher.rate(problem, index)
        rationales = [teacher.rationale(problem, index, k, rate) for k in range(samples)]
        count = counts[problem.level]
        count.questions += 1
        count.samples += samples
        count.right += sum(canonical(extract_answer(text) or "") == str(problem.answer) for text in rationales)
        yield {
            "question": f"Problem:\n{problem.text}",
            "answer": teacher.correct_solution(problem),
            "generated_answer": [f"Solution:\n{rationale}" for rationale in rationales],
            "level": f"Level {problem.level}",
            "type": problem.subject,
        }
