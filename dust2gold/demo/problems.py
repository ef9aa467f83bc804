"""Seeded arithmetic word problems, each with the exact steps that solve it.

A problem is a short story about one quantity. Every sentence after the first changes it, and the question
asks for the value at the end:

    Mia has 14 apples. She buys 27 more. She gives away 9. How many apples does Mia have now?
    14 + 27 = 41, 41 - 9 = 32

The number of steps is the level, the kind of story is the subject. Values stay between 1 and a few
hundred: short enough for a student of a million parameters, long enough for carries to go wrong.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType

from dust2gold.demo.wording import PLAIN, Wording

LONGEST = 6
"""The most steps of a problem."""

SUBJECTS = ("Gains and Losses", "Groups", "Sharing", "Prices", "Comparisons")

COMPUTE: Mapping[str, Callable[[int, int], int]] = MappingProxyType(
    {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
)


@dataclass(frozen=True)
class Step:
    """One line of a solution: `left op right = result`, exact and whole."""

    left: int
    op: str
    right: int

    @property
    def result(self) -> int:
        """The value of the step."""
        return COMPUTE[self.op](self.left, self.right)


@dataclass
class Problem:
    """A word problem: its text sentence by sentence, its steps, and what it is about.

    `events[i]` is the sentence (or empty) that step i answers to, so that a story can be told with its arithmetic.
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
    """Draws problems; the same state of `rng` gives the same ones.

    `largest` is the largest number a story starts with or adds, `factor` the largest multiplier, divisor or price.
    """

    def __init__(self, rng: random.Random, largest: int = 60, factor: int = 9, wording: Wording = PLAIN) -> None:
        self.rng, self.largest, self.factor, self.wording = rng, largest, factor, wording

    def draw(self, level: int, subject: str | None = None) -> Problem:
        """Writes one problem of `level` steps (1 to LONGEST) on `subject` (any of SUBJECTS, drawn if None)."""
        writers = {
            "Gains and Losses": self._gains_and_losses,
            "Groups": self._groups,
            "Sharing": self._sharing,
            "Prices": self._prices,
            "Comparisons": self._comparisons,
        }
        return writers[subject or self.rng.choice(SUBJECTS)](level)

    def _gains_and_losses(self, level: int) -> Problem:
        words, name, item, start = self.wording, self._name(), self._item(), self._number()
        scene, question = words.has.format(name=name, n=start, item=item), words.total.format(item=item, name=name)
        problem = Problem("Gains and Losses", scene, question)
        self._changes(problem, name, start, level)
        return problem

    def _groups(self, level: int) -> Problem:
        words, name, item = self.wording, self._name(), self._item()
        container = self.rng.choice(words.containers)
        count, each = self._factor(), self._factor()
        scene = words.grouped.format(name=name, count=count, container=container, n=each, item=item)
        question = words.total.format(item=item, name=name)
        problem = Problem("Groups", scene, question, [""], [Step(count, "*", each)])
        self._changes(problem, name, count * each, level - 1)
        return problem

    def _sharing(self, level: int) -> Problem:
        words, name, item = self.wording, self._name(), self._item()
        friends = self._factor()
        start = self._number() if level > 1 else friends * self._factor()
        problem = Problem("Sharing", words.has.format(name=name, n=start, item=item), words.share.format(item=item))
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
        problem.events.append(words.shared.format(they=words.names[name], n=friends))
        problem.steps.append(Step(value, "/", friends))
        return problem

    def _prices(self, level: int) -> Problem:
        words, name, item = self.wording, self._name(), self._item()
        count, price = self._factor(), self._factor()
        scene = words.wanted.format(name=name, count=count, item=item, n=price)
        problem = Problem("Prices", scene, words.cost.format(name=name), [""], [Step(count, "*", price)])
        value = count * price
        for _ in range(level - 1):
            amount = self._number(self.largest // 2)
            if self.rng.random() < 0.5 and amount < value:
                problem.events.append(words.cheaper.format(n=amount))
                problem.steps.append(Step(value, "-", amount))
            else:
                problem.events.append(words.dearer.format(they=words.names[name], n=amount))
                problem.steps.append(Step(value, "+", amount))
            value = problem.steps[-1].result
        return problem

    def _comparisons(self, level: int) -> Problem:
        words = self.wording
        names = self.rng.sample(sorted(words.names), level + 1)
        item = self._item()
        value = self._number(self.largest // 2)
        problem = Problem("Comparisons", words.has.format(name=names[0], n=value, item=item), "")
        for before, name in pairwise(names):
            kind = self.rng.randrange(3)
            amount = self._number(self.largest // 2)
            if kind == 0 and value <= self.largest:
                amount, op, sentence = self.rng.randint(2, 4), "*", words.times
            elif kind == 1 and amount < value:
                op, sentence = "-", words.fewer
            else:
                op, sentence = "+", words.more
            problem.events.append(sentence.format(name=name, n=amount, other=before))
            problem.steps.append(Step(value, op, amount))
            value = problem.steps[-1].result
        problem.question = words.asked.format(item=item, name=names[level])
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
        phrase = self.rng.choice(self.wording.gains if op == "+" else self.wording.losses).format(n=amount)
        return f"{self.wording.names[name]} {phrase}."

    def _name(self) -> str:
        return self.rng.choice(sorted(self.wording.names))

    def _item(self) -> str:
        return self.rng.choice(self.wording.items)

    def _number(self, largest: int | None = None) -> int:
        return self.rng.randint(3, largest or self.largest)

    def _factor(self) -> int:
        return self.rng.randint(2, self.factor)
