"""Readers of each data set in its publisher's own format, as streams of questions with their ungraded rationales.

`FORMATS` names them. A format is one function from a decoded JSON line to a question and the rationales written for it;
what is the same for all (compression, line numbers, ids, error messages) is done once, in `read`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.components.grading.answers import are_plain, plain_number
from datamodules.components.grading.extraction import gold_answer
from datamodules.components.records.records import Question, Rationale, is_text, question_of, rationale_for
from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import read_json_lines

_PROBLEM_HEAD = re.compile(r"\s*Problem:\s*")
_SOLUTION_HEAD = re.compile(r"\s*Solution:\s*")
_CALCULATION = re.compile(r"<<[^<>]*>>")
_WITH_UNIT = re.compile(r"(.*?)\s*\(([^()]*)\)")


class Entry(NamedTuple):
    """A question and the rationales written for it, still to be graded (verdict "ungradable")."""

    question: Question
    rationales: list[Rationale]


@dataclass(frozen=True, slots=True)
class Row:
    """One decoded line of a publisher's file; what it lacks is an error that names file, line and field."""

    value: Mapping[str, Any]
    file: Path
    line: int

    def error(self, field: str, problem: str) -> InputError:
        """The error for a field of this line."""
        remedy = "mend this line, or choose another --format"
        return InputError(problem, file=self.file, line=self.line, field=field, remedy=remedy)

    def _get(self, field: str) -> Any:
        if field not in self.value:
            has = ", ".join(map(str, self.value)) or "no field at all"
            raise self.error(field, f"missing; this line has {has[:200]}")
        return self.value[field]

    def text(self, field: str) -> str:
        """The text in `field`, without surrounding blanks."""
        return self._checked(field, self._get(field)).strip()

    def filled(self, field: str) -> str:
        """The same, which must not be empty."""
        text = self.text(field)
        if not text:
            raise self.error(field, "is empty")
        return text

    def texts(self, field: str) -> list[str]:
        """The list of texts in `field`."""
        values = self._get(field)
        if not isinstance(values, list):
            raise self.error(field, f"a list of texts was expected, found {type(values).__name__}")
        return [self._checked(field, value) for value in values]

    def number(self, field: str) -> str:
        """The number in `field`, as a number or as text, without its trailing zeros: 145.0 is "145"."""
        value = self._get(field)
        plain = None if isinstance(value, (bool, list, dict)) else plain_number(str(value))
        if plain is None:
            raise self.error(field, f"a number was expected, found {ascii(value)[:60]}")
        return plain

    def _checked(self, field: str, value: object) -> str:
        if not is_text(value):
            raise self.error(field, f"text was expected, found {type(value).__name__} {ascii(value)[:60]}")
        return str(value)


RowReader = Callable[[Row], tuple[Question, list[str]]]
"""From one line to its question, still without id and source, and the texts of its rationales."""


def _question(question: str, gold: str, solution: str = "", subject: str = "", level: str = "") -> Question:
    return Question("", question, gold, solution, subject, level, "")


def _solved(question: str, solution: str, subject: str, level: str) -> Question:
    gold = gold_answer(solution)
    return _question(question, gold, "" if gold == solution else solution, subject, level)  # it may hold that alone


def _tdg(row: Row) -> tuple[Question, list[str]]:
    """The paper's teacher data: MATH's training questions with several samples each."""
    solution = row.text("answer")
    text = _without(_PROBLEM_HEAD, row.text("question"))
    if not text:
        raise row.error("question", "is empty")
    question = _solved(text, solution, row.text("type"), row.text("level"))
    return question, [_without(_SOLUTION_HEAD, sample) for sample in row.texts("generated_answer")]


def _without(head: re.Pattern[str], text: str) -> str:
    found = head.match(text)
    return text[found.end() if found else 0 :].strip()


def _math(row: Row) -> tuple[Question, list[str]]:
    """MATH (Hendrycks et al. 2021)."""
    solution = row.text("solution")
    return _solved(row.filled("problem"), solution, row.text("type"), row.text("level")), []


def _gsm8k(row: Row) -> tuple[Question, list[str]]:
    """GSM8K (Cobbe et al. 2021): the answer's last line is `#### 18`; `<<48/2=24>>` are its calculator's marks."""
    solution = _CALCULATION.sub("", row.text("answer"))
    _, marks, gold = solution.rpartition("####")
    if not marks or not gold.strip():
        raise row.error("answer", "no gold answer after ####")
    return _question(row.filled("question"), plain_number(gold) or gold.strip(), solution), []


def _asdiv(row: Row) -> tuple[Question, list[str]]:
    """ASDiv (Miao et al. 2020): "9 (apples)"; what is no number ("Yes", "3:45") stays text."""
    answer = row.filled("answer")
    unit = _WITH_UNIT.fullmatch(answer)
    number = plain_number(unit[1] if unit else answer)
    text = _joined(row.text("body"), row.filled("question"))
    return _question(text, number or answer, row.text("formula"), row.text("solution_type")), []


def _svamp(row: Row) -> tuple[Question, list[str]]:
    """SVAMP (Patel et al. 2021)."""
    text = _joined(row.text("Body"), row.filled("Question"))
    return _question(text, row.number("Answer"), row.text("Equation"), row.text("Type")), []


def _multiarith(row: Row) -> tuple[Question, list[str]]:
    """MultiArith (Roy and Roth 2015): `input` and `target`, or `question` and `final_ans` as in the hub's copy."""
    question, answer = ("question", "final_ans") if "final_ans" in row.value else ("input", "target")
    return _question(row.filled(question), row.number(answer)), []


def _joined(body: str, question: str) -> str:
    """Body and question as one text; where SVAMP's body ends in half a sentence, a comma stands between them."""
    return f"{body}{',' if body[-1:].isalnum() else ''} {question}".strip()


@dataclass(frozen=True, slots=True)
class Format:
    """How to read a publisher's files."""

    source: str  # the data set's name when the user gives none; "" for records, which bring their own
    row: RowReader | None  # reads one line; None for records, which are read by their schema
    by_value: bool | None  # whether gold answers are plain numbers, compared by value; None: look
    solution: str = ""  # the field of the solutions whose boxes tell, where `by_value` is None


FORMATS: dict[str, Format] = {
    "tdg": Format("math-train", _tdg, by_value=None, solution="answer"),
    "math": Format("math", _math, by_value=None, solution="solution"),
    "gsm8k": Format("gsm8k", _gsm8k, by_value=True),
    "asdiv": Format("asdiv", _asdiv, by_value=True),
    "svamp": Format("svamp", _svamp, by_value=True),
    "multiarith": Format("multiarith", _multiarith, by_value=True),
    "records": Format("", None, by_value=None),
}


def read(path: Path, format: str, source: str | None = None) -> Iterator[Entry]:
    """Yields the entries of a `.jsonl`, `.jsonl.gz` or `.jsonl.xz` file, holding one at a time.

    `source` is the data set's name, which begins the ids; the format's own if None.

    Raises:
        InputError: If the format is unknown, the file missing or damaged, or a line not of this format.
    """
    how = format_named(format)
    return _read_records(path, source) if how.row is None else _read_rows(path, how.row, source or how.source)


def format_named(name: str) -> Format:
    """The format of this name; an error lists those there are."""
    if name not in FORMATS:
        raise InputError(f"unknown format '{name}'", field="--format", remedy=f"choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def compares_by_value(path: Path, format: str) -> bool:
    """Whether the answers to this file are compared by value rather than by the MATH convention.

    Files in MATH's formats are, if none of their solutions has a box: GSM8K's questions in the layout of the paper's
    teacher file, say. Of records the gold answers tell, see `are_plain`.
    """
    how = format_named(format)
    if how.by_value is not None:
        return how.by_value
    if how.solution:
        return not any("\\boxed" in str(value.get(how.solution)) for _, value in read_json_lines(path))
    return are_plain(str(value.get("gold", "")) for _, value in read_json_lines(path))


def _read_rows(path: Path, read_row: RowReader, source: str) -> Iterator[Entry]:
    for index, (line, value) in enumerate(read_json_lines(path)):
        question, texts = read_row(Row(value, path, line))
        question = replace(question, id=f"{source}-{index:05d}", source=source)  # ids sort as they count
        yield Entry(question, [rationale_for(question, k, text, "teacher") for k, text in enumerate(texts)])


def _read_records(path: Path, source: str | None) -> Iterator[Entry]:
    """Our own records: questions, or rationales; those of one question that follow each other are one entry."""
    for _, group in groupby(_records(path, source), key=lambda entry: (entry.question.id, not entry.rationales)):
        entries = list(group)
        yield Entry(entries[0].question, [rationale for entry in entries for rationale in entry.rationales])


def _records(path: Path, source: str | None) -> Iterator[Entry]:
    texts: dict[str, tuple[int, int]] = {}  # by id: a hash of the question, and its first line
    for line, value in read_json_lines(path):
        if "question_id" not in value:
            question = Question.from_json(value, path, line)
            entry = Entry(replace(question, source=source or question.source), [])
        else:
            rationale = Rationale.from_json(value, path, line)
            rationale = replace(rationale, answer=None, verdict="ungradable", source=source or rationale.source)
            entry = Entry(question_of(rationale), [rationale])
        own = hash(entry.question.question)
        first, place = texts.setdefault(entry.question.id, (own, line))
        if own != first:
            problem = f"another question has the id '{entry.question.id}' in line {place}"
            raise InputError(problem, file=path, line=line, field="question", remedy="give each question its own id")
        yield entry
