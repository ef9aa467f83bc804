r"""The text the tiny student is pretrained on: arithmetic, stories with running totals, short questions.

`documents` is the main corpus, `notation` mixes in how solutions are written (`Problem:`, `Solution:`, "First, …",
`\boxed{}`): a student whose embeddings of these words were never trained cannot be taught them through adapters.
Neither holds a problem of more than two steps with its solution, and in the students' format none of more than one
step: putting a long solution together is what distillation has to teach.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from dust2gold.demo.problems import Problem, ProblemWriter, Step
from dust2gold.demo.teacher import Teacher


def documents(seed: int, max_question_steps: int = 2) -> Iterator[str]:
    """Yields an endless, seeded stream of short documents."""
    rng = random.Random(seed)
    writer = ProblemWriter(rng)
    while True:
        kind = rng.random()
        if kind < 0.30:
            yield sums(rng)
        elif kind < 0.60:
            yield story(writer.draw(rng.randint(1, 4)))
        else:
            yield question(writer.draw(rng.randint(1, max_question_steps)), rng)


def notation(seed: int, share: float = 0.4) -> Iterator[str]:
    """Yields `documents` with `share` of them about notation.

    Half of that share are one-step problems in the students' format, half are solutions of any length on their own.
    """
    rng = random.Random(f"notation/{seed}")
    writer = ProblemWriter(rng)
    careful = Teacher(seed, unboxed=0.0)
    for index, document in enumerate(documents(seed)):
        if rng.random() >= share:
            yield document
        elif rng.random() < 0.5:
            problem = writer.draw(1)
            yield f"Problem:\n{problem.text}\nSolution:\n{careful.rationale(problem, index, 0)}"
        else:
            yield careful.rationale(writer.draw(rng.randint(1, 4)), index, 0)


def sums(rng: random.Random) -> str:
    """A line of independent sums, the kinds the problems need."""
    return " ".join(f"{_equation(_sum(rng))}." for _ in range(rng.randint(3, 6)))


def story(problem: Problem) -> str:
    """A problem told with its running total after every sentence."""
    parts = [problem.scene]
    for event, step in zip(problem.events, problem.steps, strict=True):
        parts += [event, f"{_equation(step)}."] if event else [f"{_equation(step)}."]
    return " ".join(parts)


def question(problem: Problem, rng: random.Random) -> str:
    """A problem as question and bare working."""
    head, work = rng.choice((("Question", "Work"), ("Q", "A"), ("Task", "Steps")))
    lines = " ".join(f"{_equation(step)}." for step in problem.steps)
    return f"{head}:\n{problem.text}\n{work}:\n{lines} Result {problem.answer}."


def _equation(step: Step) -> str:
    return f"{step.left} {step.op} {step.right} = {step.result}"


def _sum(rng: random.Random) -> Step:
    op = rng.choice("++--*/")
    if op == "+":
        return Step(rng.randint(1, 160), op, rng.randint(1, 60))
    if op == "-":
        right = rng.randint(1, 60)
        return Step(right + rng.randint(1, 140), op, right)
    right = rng.randint(2, 9)
    if op == "*":
        return Step(rng.randint(2, 60 if right < 5 else 9), op, right)
    return Step(right * rng.randint(1, 25), op, right)
