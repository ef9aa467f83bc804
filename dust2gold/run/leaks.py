"""Test questions that stand in the training set, too."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from datamodules.components.records.records import read_questions
from dust2gold.core.text import say

_LAYOUT = re.compile(r"(?:\\(?:[,;:!> ]|q?quad\b|left\b|right\b)|[$~\s])+")
_FRACTION = re.compile(r"\\[dt]frac\b")
_ONE_IN_BRACES = re.compile(r"\{(\w)\}")
_BLANK = re.compile(r"(?<!\w) | (?!\w)")
_SIGNS = re.compile(r"[^\w.]|_")
_NAMED = 5  # how many ids a message or a table names


@dataclass(frozen=True)
class Leak:
    """The ids of the questions of a test set that stand in the training set, of how many."""

    dataset: str
    questions: int
    shared: list[str]
    alike: list[str]  # more that differ from a training question in signs and punctuation alone

    @property
    def first(self) -> str:
        """The first ids, of `shared` and then of `alike`."""
        named = [*self.shared, *self.alike]
        return ", ".join(named[:_NAMED]) + (", ..." if len(named) > _NAMED else "")


def normalised(question: str) -> str:
    r"""A question without what is layout: case, white space, `$`, LaTeX's spaces, `\left`, braces around one character.

    Signs, points and digits stay: "cos(-150)" is another question than "cos 150".
    """
    text = _FRACTION.sub(r"\\frac", _LAYOUT.sub(" ", question.casefold()))
    return _BLANK.sub("", _ONE_IN_BRACES.sub(r"\1", text))


def find_leaks(run: Path) -> list[Leak]:
    """Compares each test set of a run with its training set; of either there may be none yet.

    What is held in memory are the test questions; the training set is read as a stream.

    Raises:
        InputError: If a questions.jsonl is malformed.
    """
    training = run / "data" / "questions.jsonl"
    files = [run / "test" / "questions.jsonl", *sorted(run.glob("tests/*/questions.jsonl"))]
    if not training.is_file():
        return []
    tests: dict[str, dict[str, str]] = {}  # by data set: id → what the question says
    for file in filter(Path.is_file, files):
        for question in read_questions(file):
            tests.setdefault(question.source, {})[question.id] = normalised(question.question)
    asked = {_SIGNS.sub("", text) for own in tests.values() for text in own.values()}
    trained = (normalised(question.question) for question in read_questions(training))
    found = {text for text in trained if _SIGNS.sub("", text) in asked}
    letters = {_SIGNS.sub("", text) for text in found}
    leaks = []
    for name, own in tests.items():
        shared = [id for id, text in own.items() if text in found]
        alike = [id for id, text in own.items() if text not in found and _SIGNS.sub("", text) in letters]
        leaks.append(Leak(name, len(own), shared, alike))
    return leaks


def warn_of_leaks(run: Path) -> None:
    """Names on stderr the test questions that stand in the training set."""
    for leak in find_leaks(run):
        if leak.shared or leak.alike:
            counts = f"{len(leak.shared):,} of {leak.questions:,} questions of {leak.dataset} stand in the training set"
            more = f"{len(leak.alike):,} more differ from one there in signs or punctuation alone"
            named = f"{leak.first}; accuracy on them says little about new questions"
            say(f"warning: {counts}, too, and {more}: {named}", sys.stderr)
