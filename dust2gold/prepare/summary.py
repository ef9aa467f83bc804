"""The counts in summary.json and on the terminal."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from datamodules.components.records.records import VERDICTS, Question, Rationale, Verdict
from dust2gold.core.text import visible

_DRAWN = 8
"""Random samples that are shown."""
_WIDEST = 40
"""Characters of a text in their table."""
_MANY = 0.2
"""Share of samples without an answer above which something is wrong with how answers are looked for."""


@dataclass(slots=True)
class Counts:
    """How many questions, and how many samples (rationales) by verdict."""

    questions: int = 0
    samples: int = 0
    positive: int = 0
    negative: int = 0
    ungradable: int = 0


@dataclass(slots=True)
class Summary:
    """What summary.json holds; samples are rationales."""

    grader: str  # "string", "semantic" or "both"
    compares: str  # "strings" (the MATH convention) or "values" (data sets of plain numbers)
    input: dict[str, str]  # `name` and `sha256` of the file read
    source: str = ""  # the data set's name
    questions: int = 0
    samples: int = 0  # the sum of the next three
    positive: int = 0  # with the gold answer
    negative: int = 0  # with another answer, or none
    ungradable: int = 0
    ungradable_because: dict[str, int] = field(default_factory=dict)  # the last number by reason
    without_answer: int = 0  # samples that state no answer (no box)
    questions_with_positive: int = 0
    questions_with_negative: int = 0
    by_subject: dict[str, Counts] = field(default_factory=dict)  # in alphabetical order
    drawn: list[tuple[str, str | None, str, Verdict]] = field(default_factory=list)
    """Of a few random samples: id, answer, gold answer, verdict."""


class Tally:
    """Counts entries into a summary.

    With `ids_repeat` a question may come again later, as in records of several files put together. Only then are the
    ids kept in memory; a publisher's file is counted without.
    """

    def __init__(self, summary: Summary, ids_repeat: bool) -> None:
        self.summary = summary
        self.ids_repeat = ids_repeat
        self._verdicts: dict[str, frozenset[Verdict]] = {}
        self._sources: set[str] = set()
        self._random = random.Random(0)

    def add(self, question: Question, rationales: list[Rationale]) -> bool:
        """Counts an entry; returns whether its question is new."""
        is_new = question.id not in self._verdicts
        before = self._verdicts.get(question.id, frozenset())
        verdicts = Counter(rationale.verdict for rationale in rationales)
        if self.ids_repeat:
            self._verdicts[question.id] = before.union(verdicts)
        self._sources.add(question.source)
        for counts in (self.summary, self.summary.by_subject.setdefault(question.subject, Counts())):
            counts.questions += is_new
            counts.samples += len(rationales)
            counts.positive += verdicts["positive"]
            counts.negative += verdicts["negative"]
            counts.ungradable += verdicts["ungradable"]
        for seen, rationale in enumerate(rationales, start=self.summary.samples - len(rationales)):
            self._draw(seen, rationale)
        self.summary.without_answer += sum(rationale.answer is None for rationale in rationales)
        self.summary.questions_with_positive += "positive" in verdicts and "positive" not in before
        self.summary.questions_with_negative += "negative" in verdicts and "negative" not in before
        return is_new

    def _draw(self, seen: int, rationale: Rationale) -> None:
        """Keeps a few samples, each with the same chance, after so many others (Vitter's algorithm R)."""
        place = seen if seen < _DRAWN else self._random.randrange(seen + 1)
        if place < _DRAWN:
            row = (rationale.id, rationale.answer, rationale.gold, rationale.verdict)
            self.summary.drawn[place : place + 1] = [row]

    def finished(self, ungradable_because: Mapping[str, int]) -> Summary:
        """The summary, with its subjects in order, the names of the sources, and the grader's reasons."""
        self.summary.by_subject = dict(sorted(self.summary.by_subject.items()))
        self.summary.source = ", ".join(sorted(self._sources))
        self.summary.ungradable_because = dict(ungradable_because)
        return self.summary


def print_summary(summary: Summary) -> None:
    """Prints a summary as a plain-text table."""
    columns = ("questions", "samples", *VERDICTS)
    rows = [(visible(subject) or "(no subject)", counts) for subject, counts in summary.by_subject.items()]
    table = [("subject", *columns)]
    table += [
        (name, *(f"{getattr(counts, column):,}" for column in columns)) for name, counts in [*rows, ("all", summary)]
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for name, *cells in table
    ]
    print("\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *_remarks(summary)]))


def _remarks(summary: Summary) -> Iterator[str]:
    if not summary.samples:
        yield "no rationales in this data set: questions only"
        return
    yield (
        f"{summary.questions_with_positive:,} questions have a positive rationale, "
        f"{summary.questions_with_negative:,} a negative one; "
        f"{summary.without_answer:,} rationales state no answer"
    )
    if summary.ungradable_because:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in summary.ungradable_because.items())
        yield f"ungradable, kept out of training: {reasons}"
    if summary.grader == "string" and summary.compares == "strings":
        yield "string grading: a rationale without a boxed answer counts as negative, as in the paper"
    if summary.without_answer > _MANY * summary.samples:
        fate = "are ungradable" if "no answer stated" in summary.ungradable_because else "count as wrong, in D_neg"
        yield (
            f"WARNING: {summary.without_answer:,} of {summary.samples:,} samples state no answer that could be found, "
            f"and {fate}: look at some, and say with --answer-pattern how they state it"
        )
    yield from ("", "some samples, drawn at random:")
    rows = [(verdict, answer or "(none)", gold, name) for name, answer, gold, verdict in summary.drawn]
    yield from _aligned([("verdict", "answer", "gold", "id"), *(tuple(map(_short, row)) for row in rows)])


def _short(text: str) -> str:
    text = visible(text)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
