"""The counts in summary.json and on the terminal."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from datamodules.components.records.records import VERDICTS, Rationale, Verdict
from dust2gold.core.text import visible
from dust2gold.prepare.readers import Entry

Verdicts = Literal["given", "graded", "both"]
"""Which verdicts count where the data give some: theirs, ours, or what the two agree on."""
_T = TypeVar("_T")

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
    # Only where there are any:
    left_out: dict[str, int] = field(default_factory=dict)  # samples that stand in no file, by reason
    verdicts: Verdicts | None = None
    compared: dict[Verdict, dict[Verdict, int]] = field(default_factory=dict)  # samples by given and graded verdict
    differing: list[tuple[str, str | None, str, Verdict, Verdict]] = field(default_factory=list)
    """Of a few random samples whose verdicts differ: id, answer, gold answer, given, graded."""

    def to_json(self) -> dict[str, Any]:
        """What summary.json holds."""
        later = ("left_out", "verdicts", "compared", "differing")
        return {name: value for name, value in asdict(self).items() if value or name not in later}


class Tally:
    """Counts entries into a summary.

    Only of questions that may come again, in records of several files put together say, are the ids kept in memory.
    """

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        self._verdicts: dict[str, int] = {}  # 1: has a positive rationale, 2: a negative one
        self._sources: set[str] = set()
        self._random = random.Random(0)
        self._differ = random.Random(0)
        self._reasons: Counter[str] = Counter()

    def verdict(self, rationale: Rationale, graded: Verdict) -> Verdict:
        """Compares the verdict that came with a rationale, if any, with ours, and returns the one that counts."""
        given, summary = rationale.verdict, self.summary
        if summary.verdicts is None:
            return graded
        if given != "ungradable":
            summary.compared.setdefault(given, dict.fromkeys(VERDICTS, 0))[graded] += 1
        differ = {given, graded} == {"positive", "negative"}
        if differ:
            seen = summary.compared[given][graded] + summary.compared.get(graded, {}).get(given, 0) - 1
            row = (rationale.id, rationale.answer, rationale.gold, given, graded)
            _draw(self._differ, summary.differing, seen, row)
        if summary.verdicts == "given":
            self._reasons["no verdict given"] += given == "ungradable"
            return given
        if summary.verdicts == "both" and differ:
            self._reasons["the verdicts differ"] += 1
            return "ungradable"
        return graded

    def add(self, entry: Entry) -> bool:
        """Counts an entry; returns whether its question is new."""
        question, rationales = entry.question, entry.rationales
        is_new, before = question.id not in self._verdicts, self._verdicts.get(question.id, 0)
        verdicts = Counter(rationale.verdict for rationale in rationales)
        if not entry.alone:
            self._verdicts[question.id] = before | ("positive" in verdicts) | 2 * ("negative" in verdicts)
        self._sources.add(question.source)
        for counts in (self.summary, self.summary.by_subject.setdefault(question.subject, Counts())):
            counts.questions += is_new
            counts.samples += len(rationales)
            counts.positive += verdicts["positive"]
            counts.negative += verdicts["negative"]
            counts.ungradable += verdicts["ungradable"]
        for seen, each in enumerate(rationales, start=self.summary.samples - len(rationales)):
            _draw(self._random, self.summary.drawn, seen, (each.id, each.answer, each.gold, each.verdict))
        for why in entry.left_out:
            self.summary.left_out[why] = self.summary.left_out.get(why, 0) + 1
        self.summary.without_answer += sum(rationale.answer is None for rationale in rationales)
        self.summary.questions_with_positive += "positive" in verdicts and not before & 1
        self.summary.questions_with_negative += "negative" in verdicts and not before & 2
        return is_new

    def finished(self, ungradable_because: Mapping[str, int]) -> Summary:
        """The summary, with its subjects in order, the names of the sources, and the grader's reasons."""
        self.summary.by_subject = dict(sorted(self.summary.by_subject.items()))
        self.summary.source = ", ".join(sorted(self._sources))
        self.summary.compared = dict(sorted(self.summary.compared.items(), reverse=True))  # the positive ones first
        graders = {} if self.summary.verdicts == "given" else ungradable_because
        self.summary.ungradable_because = {**graders, **+self._reasons}
        return self.summary


def _draw(chance: random.Random, drawn: list[_T], seen: int, row: _T) -> None:
    """Keeps a few rows, each with the same chance, after so many others (Vitter's algorithm R)."""
    place = seen if seen < _DRAWN else chance.randrange(seen + 1)
    if place < _DRAWN:
        drawn[place : place + 1] = [row]


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
    if summary.left_out:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in summary.left_out.items())
        yield f"left out, in no file: {reasons}"
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
    if summary.samples and not summary.positive:
        yield "WARNING: no rationale is right: is the column of gold answers the right one?"
    yield from _comparison(summary)
    yield from ("", "some samples, drawn at random:")
    rows = [(verdict, answer or "(none)", gold, name) for name, answer, gold, verdict in summary.drawn]
    yield from _aligned([("verdict", "answer", "gold", "id"), *(tuple(map(_short, row)) for row in rows)])


def _comparison(summary: Summary) -> Iterator[str]:
    """How often the given verdicts and ours agree."""
    if not summary.compared:
        return
    pairs = {(given, graded): count for given, row in summary.compared.items() for graded, count in row.items()}
    agreed = sum(count for (given, graded), count in pairs.items() if given == graded)
    counts = {"given": "the given ones count", "graded": "ours count", "both": "where they differ, none counts"}
    yield (
        f"given and graded verdicts agree on {agreed:,} of {sum(pairs.values()):,} samples; "
        f"{counts[summary.verdicts or 'both']}:"
    )
    rows = [(given, *(f"{count:,}" for count in row.values())) for given, row in summary.compared.items()]
    yield from _aligned([("given", *(f"graded {verdict}" for verdict in VERDICTS)), *rows])
    if summary.differing:
        yield "some samples on which they differ:"
        rows = [
            (given, graded, answer or "(none)", gold, name) for name, answer, gold, given, graded in summary.differing
        ]
        yield from _aligned([("given", "graded", "answer", "gold", "id"), *(tuple(map(_short, row)) for row in rows)])


def _short(text: str) -> str:
    text = visible(text)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
