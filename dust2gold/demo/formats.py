"""Held-out questions in the formats of several publishers, so that generated data goes the same way as real data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dust2gold.demo.problems import Problem
from dust2gold.demo.teacher import Teacher

Writer = Callable[[int, Problem, Teacher], dict[str, Any]]
"""From a question's number, the problem and the teacher to a line of the file."""


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
"""By the name that `prepare --format` knows them by."""
