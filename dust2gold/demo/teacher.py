r"""A seeded teacher of generated problems, right and wrong as often as the paper's teacher on MATH.

It goes through the steps of a problem and writes each as a line. A wrong rationale has a mistake in at least one step:
a carry is forgotten, a number misread, a step left out. After a mistake the teacher goes on consistently with its wrong
value:

    14 + 27 = 31. 31 - 9 = 22. The answer is \boxed{22}.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from dust2gold.core.errors import InputError
from dust2gold.demo.problems import COMPUTE, Problem

MOST_REDRAWS = 1000


class Level(NamedTuple):
    """A level of the paper's teacher data, counted and fitted by `fit_teacher`."""

    questions: int
    a: float  # the rates of right samples of its questions are distributed as Beta(a, b)
    b: float


LEVELS: Mapping[int, Level] = MappingProxyType(
    {
        1: Level(564, 0.763, 0.265),
        2: Level(1348, 0.577, 0.421),
        3: Level(1592, 0.409, 0.549),
        4: Level(1690, 0.325, 0.815),
        5: Level(2304, 0.174, 1.156),
        6: Level(2304, 0.174, 1.156),  # MATH has no level 6: as level 5
    }
)
"""By number of steps."""


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


def forget_carry(rng: random.Random, left: int, op: str, right: int) -> list[Line] | None:
    """Forgets a carry (14 + 27 = 31) or a borrow (41 - 9 = 42)."""
    true = _true_line(left, op, right)
    if op not in "+-":
        return None
    sign = 1 if op == "+" else -1
    # A carry into the column worth `power` (a borrow from it) is due exactly if the digits below it do not add up to
    # (differ by) a number of that many digits. The leading digit of a longer sum is no carry that one forgets.
    powers = [10**p for p in range(1, len(str(max(true.left, true.right))))]
    carries = [power for power in powers if not 0 <= true.left % power + sign * (true.right % power) < power]
    return [true._replace(value=true.value - sign * rng.choice(carries))] if carries else None


def wrong_table_entry(rng: random.Random, left: int, op: str, right: int) -> list[Line]:
    """Takes the neighbouring entry of a table (7 * 8 = 63, 14 + 3 = 18)."""
    true = _true_line(left, op, right)
    off_by_one = [true.value + 1, true.value - 1]
    if op == "*":
        off_by_one = [left * (right + 1), left * (right - 1), (left + 1) * right, (left - 1) * right]
    return [true._replace(value=rng.choice([value for value in off_by_one if value > 0]))]


def wrong_operation(rng: random.Random, left: int, op: str, right: int) -> list[Line] | None:
    """Computes with another operation."""
    swapped = {"+": "-", "-": "+", "*": "+", "/": "-"}[op]
    return None if swapped == "-" and left < right else [_true_line(left, swapped, right)]


def misread_number(rng: random.Random, left: int, op: str, right: int) -> list[Line]:
    """Misreads the number that the step brings in: its digits swapped, or its neighbour."""
    swapped = int(str(right)[::-1]) if right % 10 else right
    readings = [number for number in (swapped, right - 1, right + 1) if number not in (0, 1, right)]
    return [_true_line(left, op, rng.choice(readings))]


def leave_out(rng: random.Random, left: int, op: str, right: int) -> list[Line]:
    """Leaves the step out."""
    return []


def add_step(rng: random.Random, left: int, op: str, right: int) -> list[Line]:
    """Does the step twice."""
    once = _true_line(left, op, right)
    return [once, _true_line(once.value, op, right)]


Mistake = Callable[[random.Random, int, str, int], "list[Line] | None"]
"""Writes the step `left op right` with a mistake, in any number of lines; None where the step has no place for it."""


@dataclass(frozen=True)
class Kind:
    """What a teacher does wrong.

    Attributes:
        mistakes: How often each mistake is made in relation to the others, where the step has a place for it.
        further: Probability that a step is mistaken, too, beside the first mistaken one, which is any step.
    """

    mistakes: Mapping[Mistake, float]
    further: float


TEACHERS: Mapping[str, Kind] = MappingProxyType(
    {
        "slips": Kind(MappingProxyType({forget_carry: 4, wrong_table_entry: 1}), further=0.3),
        "reasoning": Kind(
            MappingProxyType({misread_number: 6, wrong_operation: 1, leave_out: 1, add_step: 1}), further=0.0
        ),
    }
)
"""Errors of computing, and errors of understanding what is to be computed.

The shares of the latter were set on other seeds than the study's so that a student of the wrong rationales solves about
two thirds of what one of the right ones does, as in the paper (docs/study.md).
"""


class Teacher:
    """Writes rationales; the k-th one to a question depends on (seed, question index, k), the rate and nothing else.

    Args:
        seed: Seed of all its choices.
        kind: What it does wrong.
        unboxed: Probability that the answer is not boxed (786 of the 60,000 samples of the paper's teacher).
        notation: Probability that a boxed answer, right or wrong, is not written in plain digits (`other_notation`).
            The reasoning is the same whatever this is.

    Raises:
        InputError: If one of these is no probability.
    """

    def __init__(
        self, seed: int = 0, kind: Kind = TEACHERS["slips"], *, unboxed: float = 0.013, notation: float = 0.0
    ) -> None:
        self.seed, self.kind, self.unboxed, self.notation = seed, kind, unboxed, notation
        for name, value in {"unboxed": unboxed, "notation": notation}.items():
            if not 0 <= value <= 1:
                raise InputError(f"{value} is no probability", field=name, remedy="give a value from 0 to 1")

    def rate(self, problem: Problem, question_index: int) -> float:
        """The share of its rationales to a question that are right, drawn for the problem's level."""
        level = LEVELS[problem.level]
        return random.Random(f"{self.seed}/rate/{question_index}").betavariate(level.a, level.b)

    def rationale(self, problem: Problem, question_index: int, k: int, rate: float = 1.0) -> str:
        r"""The k-th rationale to a problem, right with probability `rate`, and its value in `\boxed{}`."""
        rng = random.Random(f"{self.seed}/{question_index}/{k}")
        style = rng.choice(STYLES)
        boxed = rng.random() >= self.unboxed
        lines = _careful(problem) if rng.random() < rate else self._wrong(problem, rng)
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
        return _plain(problem, _careful(problem), _boxed(problem.answer))

    def _wrong(self, problem: Problem, rng: random.Random) -> list[Line]:
        """Steps that do not lead to the gold answer: a mistake can cancel out by luck, and is drawn again."""
        for _ in range(MOST_REDRAWS):
            lines = self._mistaken(problem, rng)
            if lines and lines[-1].value != problem.answer:
                return lines
        raise InputError(f"no wrong answer found to: {problem.text}", remedy="raise --largest or --factor")

    def _mistaken(self, problem: Problem, rng: random.Random) -> list[Line]:
        first = rng.randrange(problem.level)
        lines: list[Line] = []
        for index, step in enumerate(problem.steps):
            asked = lines[-1].value if lines else problem.steps[0].left, step.op, step.right
            if index == first or rng.random() < self.kind.further:
                written = {mistake: mistake(rng, *asked) for mistake in self.kind.mistakes}
                weights = [0 if written[mistake] is None else w for mistake, w in self.kind.mistakes.items()]
                lines += rng.choices(list(written.values()), weights)[0] or []
            else:
                lines.append(_true_line(*asked))
        return lines


def _careful(problem: Problem) -> list[Line]:
    return [Line(step.left, step.op, step.right, step.result) for step in problem.steps]


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
