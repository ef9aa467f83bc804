r"""A seeded teacher that writes rationales to generated problems and slips the way a real one does.

It goes through the steps of a problem and writes each as a line. At a step it may slip: forget a carry, take the
neighbouring entry of the times table, use the wrong operation or misread a number; over the whole solution it may
leave a step out or forget the box. After a slip it goes on consistently with its wrong value:

    14 + 27 = 31. 31 - 9 = 22. The answer is \boxed{22}.

A slip can cancel out by luck. Whether a rationale is right is decided by grading its boxed answer, never here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from dust2gold.core.errors import InputError
from dust2gold.demo.problems import COMPUTE, Problem


class Line(NamedTuple):
    """One line as the teacher writes it, true or not: `left op right = value`."""

    left: int
    op: str
    right: int
    value: int

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right} = {self.value}."


def _true_line(left: int, op: str, right: int) -> Line:
    # After a slip a difference may turn negative and a quotient leave a remainder. The teacher stays within whole
    # numbers: it takes the smaller from the larger, and it rounds down.
    if op == "-" and left < right:
        left, right = right, left
    return Line(left, op, right, COMPUTE[op](left, right))


def forget_carry(rng: random.Random, left: int, op: str, right: int) -> Line | None:
    """Forgets a carry (14 + 27 = 31) or a borrow (41 - 9 = 42)."""
    true = _true_line(left, op, right)
    sign = 1 if op == "+" else -1
    # A carry into the column worth `power` (a borrow from it) is due exactly if the digits below it do not add up to
    # (differ by) a number of that many digits. The leading digit of a longer sum is no carry that one forgets.
    powers = [10**p for p in range(1, len(str(max(true.left, true.right))))]
    carries = [power for power in powers if not 0 <= true.left % power + sign * (true.right % power) < power]
    return true._replace(value=true.value - sign * rng.choice(carries)) if carries else None


def wrong_table_entry(rng: random.Random, left: int, op: str, right: int) -> Line | None:
    """Takes the neighbouring entry of the times table (7 * 8 = 63)."""
    true = _true_line(left, op, right)
    off_by_one = [true.value + 1, true.value - 1]
    if op == "*":
        off_by_one = [left * (right + 1), left * (right - 1), (left + 1) * right, (left - 1) * right]
    return true._replace(value=rng.choice([value for value in off_by_one if value > 0]))


def wrong_operation(rng: random.Random, left: int, op: str, right: int) -> Line | None:
    """Computes with another operation."""
    swapped = {"+": "-", "-": "+", "*": "+", "/": "-"}[op]
    return None if swapped == "-" and left < right else _true_line(left, swapped, right)


def misread_number(rng: random.Random, left: int, op: str, right: int) -> Line | None:
    """Misreads the number that the step brings in: its digits swapped, or its neighbour."""
    swapped = int(str(right)[::-1]) if right % 10 else right
    readings = [number for number in (swapped, right - 1, right + 1) if number not in (0, 1, right)]
    return _true_line(left, op, rng.choice(readings))


Slip = Callable[[random.Random, int, str, int], "Line | None"]
"""Writes the step `left op right` as a line with a mistake; None where the step gives no occasion for it."""
Rates = Mapping[Slip, Mapping[str, float]]

DEFAULT_RATES: Rates = MappingProxyType(
    {
        forget_carry: {"+": 0.32, "-": 0.36},
        wrong_table_entry: {"*": 0.22, "/": 0.20},
        wrong_operation: {"+": 0.03, "-": 0.04, "*": 0.05, "/": 0.05},
        misread_number: {"+": 0.05, "-": 0.05, "*": 0.05, "/": 0.05},
    }
)
"""Probability of each slip at a step by operation, for a problem of one step. A carry is forgotten only where one, or a
borrow, is needed, so its overall share is lower than its rate."""


class Teacher:
    """Writes rationales; the k-th one to a question depends on (seed, question index, k) and on nothing else.

    With the defaults about 29, 48, 60 and 69% of the rationales to problems of 1, 2, 3 and 4 steps are wrong, and
    nine questions in ten have both right and wrong ones among 8.

    Args:
        seed: Seed of all its choices.
        rates: Probability of each slip by operation, at the steps of a one-step problem; one step slips at most once.
        dropped: Probability that one step is left out, in a problem of two steps.
        growth: By how much all of these grow with every further step: a rate p becomes
            p * (1 + growth * (level - 1)), and `dropped` likewise counted from level 2.
        unboxed: Probability that the answer is not boxed (786 of the 60,000 samples of the paper's teacher).
        notation: Probability that a boxed answer, right or wrong, is not written in plain digits (`other_notation`).
            The reasoning is the same whatever this is.

    Raises:
        InputError: If a rate is no probability, or the slips of one operation add up to more than 1.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        rates: Rates = DEFAULT_RATES,
        dropped: float = 0.05,
        growth: float = 0.03,
        unboxed: float = 0.013,
        notation: float = 0.0,
    ) -> None:
        self.seed, self.rates, self.growth = seed, rates, growth
        self.dropped, self.unboxed, self.notation = dropped, unboxed, notation
        totals = {op: sum(by_operation.get(op, 0.0) for by_operation in rates.values()) for op in "+-*/"}
        named = {"dropped": dropped, "unboxed": unboxed, "notation": notation}
        for name, value in {**named, **{f"rates of '{op}'": p for op, p in totals.items()}}.items():
            if not 0 <= value <= 1:
                raise InputError(f"{value} is no probability", field=name, remedy="give a value from 0 to 1")

    def rationale(self, problem: Problem, question_index: int, k: int) -> str:
        r"""The k-th rationale to a problem: steps that may hold slips, and the value they lead to in `\boxed{}`."""
        rng = random.Random(f"{self.seed}/{question_index}/{k}")
        style = rng.choice(STYLES)
        boxed = rng.random() >= self.unboxed
        lines = self._work(problem, rng)
        if not boxed:
            return style(problem, lines, str(lines[-1].value))
        # From a generator of its own: the same rationale comes out with every `notation`, but for its answer.
        hand = random.Random(f"{self.seed}/notation/{question_index}/{k}")
        asked = re.match(r"How many (\w+) ", problem.question)
        unit = None if asked is None or style is _by_quantity else asked[1]  # that style names the unit itself
        odd = hand.random() < self.notation
        return style(problem, lines, _boxed(other_notation(lines[-1].value, unit, hand) if odd else lines[-1].value))

    def correct_solution(self, problem: Problem) -> str:
        """The gold solution: every step true, the answer boxed."""
        lines = [Line(step.left, step.op, step.right, step.result) for step in problem.steps]
        return _plain(problem, lines, _boxed(problem.answer))

    def _work(self, problem: Problem, rng: random.Random) -> list[Line]:
        steps = list(problem.steps)
        value = steps[0].left
        if len(steps) > 1 and rng.random() < self._rate(self.dropped, problem.level - 1):
            steps.pop(rng.randrange(len(steps)))
        lines: list[Line] = []
        for step in steps:
            lines.append(self._line(value, step.op, step.right, problem.level, rng))
            value = lines[-1].value
        return lines

    def _line(self, left: int, op: str, right: int, level: int, rng: random.Random) -> Line:
        threshold = rng.random()
        for slip, by_operation in self.rates.items():
            threshold -= self._rate(by_operation.get(op, 0.0), level)
            if threshold < 0:
                return slip(rng, left, op, right) or _true_line(left, op, right)
        return _true_line(left, op, right)

    def _rate(self, rate: float, level: int) -> float:
        return rate * (1 + self.growth * (level - 1))


def other_notation(value: int, unit: str | None, rng: random.Random) -> str:
    r"""Writes a whole number as real teachers do: `12.0`, `\frac{24}{2}`, `12 apples`, `\$12.00`, `1{,}200`.

    The string comparison of the MATH convention takes them for other answers, a comparison by value does not: they are
    the label noise that semantic grading takes out of D_neg.
    """
    ways = [f"{value}.0", rf"\frac{{{2 * value}}}{{2}}"]
    if unit is not None:
        ways.append(rf"\${value}.00" if unit == "dollars" else f"{value} {unit}")
    if abs(value) >= 1000:
        ways.append(f"{value:,}".replace(",", "{,}"))
    return rng.choice(ways)


def _boxed(answer: int | str) -> str:
    return rf"\boxed{{{answer}}}"


def _plain(problem: Problem, lines: Sequence[Line], answer: str) -> str:
    return f"{' '.join(map(str, lines))} The answer is {answer}."


def _in_order(problem: Problem, lines: Sequence[Line], answer: str) -> str:
    first, *others = lines
    return " ".join([f"First, {first}", *[f"Then, {line}" for line in others], f"So the answer is {answer}."])


def _by_quantity(problem: Problem, lines: Sequence[Line], answer: str) -> str:
    r"""Answers the question in its own words at the end, as in `Mia has \boxed{32} apples`."""
    asked = re.fullmatch(r"How many (\w+) does (.+) (have|get|cost)\b.*\?", problem.question)
    assert asked is not None  # the teacher answers questions of the plain wording alone
    unit, owner, verb = asked.groups()
    verb = "has" if verb == "have" else f"{verb}s"
    return f"{' '.join(map(str, lines))} {owner[0].upper()}{owner[1:]} {verb} {answer} {unit}."


STYLES = (_plain, _in_order, _by_quantity)
"""The teacher's phrasings, drawn with equal probability."""
