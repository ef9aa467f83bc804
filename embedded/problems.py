"""Seeded arithmetic word problems, each with the exact steps that solve it.

A problem is a short story about one quantity. Every sentence after the first changes it, and the question
asks for the value at the end:

    Mia has 14 apples. She buys 27 more. She gives away 9. How many apples does Mia have now?
    14 + 27 = 41, 41 - 9 = 32

The number of steps is the level (1 to 4), the kind of story is the subject. Values stay between 1 and a few
hundred: short enough for a student of a million parameters, long enough for carries to go wrong.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

NAMES = {
    "Mia": "She", "Tom": "He", "Anna": "She", "Ben": "He", "Lucy": "She", "Sam": "He",
    "Nora": "She", "Max": "He", "Ella": "She", "Leo": "He", "Ruth": "She", "Paul": "He",
}  # fmt: skip
ITEMS = ("apples", "books", "coins", "cards", "shells", "pens", "stamps", "cookies", "marbles", "beads")
CONTAINERS = ("boxes", "bags", "jars", "crates")
GAINS = ("buys {n} more", "finds {n} more", "gets {n} more", "wins {n} more")
LOSSES = ("gives away {n}", "loses {n}", "sells {n}", "uses {n}")

SUBJECTS = ("Gains and Losses", "Groups", "Sharing", "Prices", "Comparisons")


@dataclass(frozen=True)
class Step:
    """One line of a solution: `left op right = result`, exact and whole."""

    left: int
    op: str
    right: int

    @property
    def result(self) -> int:
        """The exact value of the step."""
        return apply(self.left, self.op, self.right)


def apply(left: int, op: str, right: int) -> int:
    """Computes `left op right` for op in + - * /; division must be exact.

    Raises:
        ValueError: If the division leaves a remainder or the operator is unknown.
    """
    if op == "+":
        return left + right
    if op == "-":
        return left - right
    if op == "*":
        return left * right
    if op == "/" and right and left % right == 0:
        return left // right
    raise ValueError(f"cannot compute {left} {op} {right} in whole numbers")


@dataclass
class Problem:
    """A word problem: its text sentence by sentence, its steps, and what it is about.

    `sentences[0]` sets the scene; `events[i]` is the sentence (or empty) that step i answers to, so that a
    narrator can interleave the story with the arithmetic.
    """

    subject: str
    scene: str
    question: str
    events: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def level(self) -> int:
        """The number of steps."""
        return len(self.steps)

    @property
    def answer(self) -> int:
        """The exact answer: the result of the last step."""
        return self.steps[-1].result

    @property
    def text(self) -> str:
        """The problem as it is put to a student."""
        return " ".join([self.scene, *[event for event in self.events if event], self.question])


class ProblemWriter:
    """Draws problems from a seeded generator.

    Args:
        rng: The source of every choice; the same state gives the same problems.
        largest: Largest number a story starts with or adds.
        factor: Largest multiplier, divisor or price.
    """

    def __init__(self, rng: random.Random, largest: int = 60, factor: int = 9) -> None:
        self.rng = rng
        self.largest = largest
        self.factor = factor

    def draw(self, level: int, subject: str | None = None) -> Problem:
        """Writes one problem of `level` steps (1 to 4) on `subject` (any of SUBJECTS, drawn if None)."""
        writers = {
            "Gains and Losses": self._gains_and_losses,
            "Groups": self._groups,
            "Sharing": self._sharing,
            "Prices": self._prices,
            "Comparisons": self._comparisons,
        }
        return writers[subject or self.rng.choice(SUBJECTS)](level)

    def _gains_and_losses(self, level: int) -> Problem:
        name, item, start = self._name(), self.rng.choice(ITEMS), self._number()
        problem = Problem("Gains and Losses", f"{name} has {start} {item}.", f"How many {item} does {name} have now?")
        self._changes(problem, name, start, level)
        return problem

    def _groups(self, level: int) -> Problem:
        name, item, container = self._name(), self.rng.choice(ITEMS), self.rng.choice(CONTAINERS)
        count, each = self._factor(), self._factor()
        problem = Problem(
            "Groups",
            f"{name} has {count} {container} with {each} {item} each.",
            f"How many {item} does {name} have now?",
            [""],
            [Step(count, "*", each)],
        )
        self._changes(problem, name, count * each, level - 1)
        return problem

    def _sharing(self, level: int) -> Problem:
        name, item = self._name(), self.rng.choice(ITEMS)
        friends = self._factor()
        start = self._number() if level > 1 else friends * self._factor()
        problem = Problem("Sharing", f"{name} has {start} {item}.", f"How many {item} does each friend get?")
        value = self._changes(problem, name, start, level - 1)
        if value % friends:  # the last change makes the division exact
            last = problem.steps[-1]
            wanted = value + friends - value % friends
            amount = abs(wanted - last.left)
            op = "+" if wanted >= last.left else "-"
            if amount == 0:
                op, amount, wanted = "+", friends, wanted + friends
            problem.steps[-1] = Step(last.left, op, amount)
            problem.events[-1] = self._change_sentence(name, op, amount)
            value = wanted
        problem.events.append(f"{NAMES[name]} shares them equally among {friends} friends.")
        problem.steps.append(Step(value, "/", friends))
        return problem

    def _prices(self, level: int) -> Problem:
        name, item = self._name(), self.rng.choice(ITEMS)
        count, price = self._factor(), self._factor()
        problem = Problem(
            "Prices",
            f"{name} wants {count} {item} at {price} dollars each.",
            "How many dollars does it cost in total?",
            [""],
            [Step(count, "*", price)],
        )
        value = count * price
        for _ in range(level - 1):
            amount = self._number(self.largest // 2)
            if self.rng.random() < 0.5 and amount < value:
                problem.events.append(f"A coupon takes off {amount} dollars.")
                problem.steps.append(Step(value, "-", amount))
            else:
                problem.events.append(f"{NAMES[name]} adds a hat for {amount} dollars.")
                problem.steps.append(Step(value, "+", amount))
            value = problem.steps[-1].result
        return problem

    def _comparisons(self, level: int) -> Problem:
        names = self.rng.sample(sorted(NAMES), level + 1)
        item = self.rng.choice(ITEMS)
        value = self._number(self.largest // 2)
        problem = Problem("Comparisons", f"{names[0]} has {value} {item}.", "")
        for before, name in pairwise(names):
            kind = self.rng.randrange(3)
            amount = self._number(self.largest // 2)
            if kind == 0 and value <= self.largest:
                times = self.rng.randint(2, 4)
                problem.events.append(f"{name} has {times} times as many as {before}.")
                problem.steps.append(Step(value, "*", times))
            elif kind == 1 and amount < value:
                problem.events.append(f"{name} has {amount} fewer than {before}.")
                problem.steps.append(Step(value, "-", amount))
            else:
                problem.events.append(f"{name} has {amount} more than {before}.")
                problem.steps.append(Step(value, "+", amount))
            value = problem.steps[-1].result
        problem.question = f"How many {item} does {names[level]} have?"
        return problem

    def _changes(self, problem: Problem, name: str, value: int, count: int) -> int:
        for _ in range(count):
            amount = self._number()
            op = "-" if self.rng.random() < 0.5 and amount < value else "+"
            problem.events.append(self._change_sentence(name, op, amount))
            problem.steps.append(Step(value, op, amount))
            value = problem.steps[-1].result
        return value

    def _change_sentence(self, name: str, op: str, amount: int) -> str:
        phrase = self.rng.choice(GAINS if op == "+" else LOSSES).format(n=amount)
        return f"{NAMES[name]} {phrase}."

    def _name(self) -> str:
        return self.rng.choice(sorted(NAMES))

    def _number(self, largest: int | None = None) -> int:
        return self.rng.randint(3, largest or self.largest)

    def _factor(self) -> int:
        return self.rng.randint(2, self.factor)
