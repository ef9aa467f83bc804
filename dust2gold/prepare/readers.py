"""A data set as a stream of questions with their rationales, each with the verdict that the data give, if any.

`FORMATS` says which column plays which role; what a row makes of them is said once, here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.components.grading.answers import are_plain, plain_number, same_value, string_equal
from datamodules.components.grading.extraction import extract_answer, gold_answer, stated_answer
from datamodules.components.records.records import Question, Rationale, Verdict, is_text, question_of, rationale_for
from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import read_json_lines
from dust2gold.prepare.formats import FORMATS, MISSING, Format, at, format_named, nearest
from dust2gold.prepare.rows import read_rows

_PROBLEM_HEAD = re.compile(r"\s*Problem:\s*")
_SOLUTION_HEAD = re.compile(r"\s*Solution:\s*")
_VERDICTS: dict[str, Verdict] = {
    **dict.fromkeys(("true", "1", "positive", "correct"), "positive"),
    **dict.fromkeys(("false", "0", "negative", "incorrect"), "negative"),
}
_CUT = ("length", "content_filter")
"""Why a sample ended that a student must not learn to end like."""


class Entry(NamedTuple):
    """A question and the rationales written for it, still to be graded; `verdict` is what the data say, if anything."""

    question: Question
    rationales: list[Rationale]
    left_out: tuple[str, ...] = ()  # why, of each sample that is left out
    alone: bool = True  # whether no other entry has this question


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set; what it lacks is an error that names file, row and column."""

    value: Mapping[str, Any]
    file: Path
    line: int
    format: Format

    def error(self, column: str, problem: str) -> InputError:
        """The error for a column of this row."""
        remedy = "mend this row, or choose another --format or --columns"
        return InputError(problem, file=self.file, line=self.line, field=column, remedy=remedy)

    def get(self, role: str) -> tuple[str, Any]:
        """The column that plays a role and what it holds; "" and None where there is none and need not be."""
        found: list[tuple[str, Any]] = []
        convert = self.format.through.get(role, lambda value: value)
        columns = self.format.columns.get(role, "").split("|")
        for column in filter(None, columns):
            try:
                if (value := at(self.value, column)) is not MISSING:
                    found.append((column, convert(value)))
            except ValueError as error:
                raise self.error(column, str(error)) from error
        if not found and "" not in columns:
            raise self._lacking(columns[0])
        return next((each for each in found if each[1] is not None), [*found, ("", None)][0])

    def _lacking(self, column: str) -> InputError:
        has = ", ".join(
            ", ".join(f"{name}.{inner}" for inner in value) if isinstance(value, Mapping) else str(name)
            for name, value in self.value.items()
        )
        name = nearest(self.value)
        fits = f"the nearest --format is {name}" if name and FORMATS[name] != self.format else "mend this row"
        return InputError(
            f"missing; there are {has[:300] or 'no columns at all'}",
            file=self.file,
            line=self.line,
            field=column,
            remedy=f"{fits}, or say which column is what: --columns question=COLUMN gold=COLUMN samples=COLUMN",
        )

    def text(self, role: str) -> str:
        """The text of a role without surrounding blanks; "" where there is none and need not be."""
        column, value = self.get(role)
        return "" if value is None and role != "question" else self._checked(column, value).strip()

    def name(self, role: str) -> str:
        """The same, where a number will do: 145.0 is "145"."""
        column, value = self.get(role)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return plain_number(str(value)) or str(value)
        return "" if value is None else self._checked(column, value).strip()

    def beside(self, role: str, samples: list[Any], listed: bool) -> list[str | None]:
        """What a column says of each sample, as text in lower case; None where it says nothing."""
        column, value = self.get(role)
        if value is None:
            return [None] * len(samples)
        values = value if listed else [value]
        if not isinstance(values, list) or len(values) != len(samples):
            raise self.error(column, f"a value for each of the {len(samples)} samples was expected")
        return [None if each in (None, "") else str(each).removesuffix(".0").lower() for each in values]

    def _checked(self, column: str, value: object) -> str:
        if not is_text(value):
            raise self.error(column, f"text was expected, found {type(value).__name__} {ascii(value)[:60]}")
        return str(value)

    def question(self) -> Question:
        """The row's question, still without id and source."""
        solution = self.text("solution")
        if "gold" in self.format.columns:
            gold = self.name("gold")
            gold = stated_answer(gold) or gold
        else:
            gold = gold_answer(solution)
            solution = "" if gold == solution else solution  # it may hold that alone
        body, text, level = self.text("body"), _without(_PROBLEM_HEAD, self.text("question")), self.name("level")
        if not text:
            raise self.error(self.get("question")[0], "is empty")
        if body:  # where SVAMP's ends in half a sentence, a comma stands between them
            text = f"{body}{',' if body[-1].isalnum() else ''} {text}"
        level = f"Level {level}" if level.isdigit() else level
        return Question("", text, gold, solution, self.name("subject"), level, self.name("source"))

    def samples(self) -> tuple[list[tuple[str, Verdict, str]], bool]:
        """Of each sample its text, the verdict that the data give, and why it is left out; whether they are a list."""
        column, value = self.get("samples")
        listed = not column or isinstance(value, list)
        texts = [_without(_SOLUTION_HEAD, self._checked(column, text)) for text in (value or [] if listed else [value])]
        verdicts, complete, ends = (self.beside(role, texts, listed) for role in ("verdict", "keep", "finish"))
        samples: list[tuple[str, Verdict, str]] = []
        for text, verdict, kept, end in zip(texts, verdicts, complete, ends, strict=True):
            for role, said in (("verdict", verdict), ("keep", kept)):
                if said is not None and said not in _VERDICTS:
                    raise self.error(self.get(role)[0], f"true or false was expected, found {ascii(said)[:60]}")
            why = "incomplete" if kept and _VERDICTS[kept] == "negative" else ""
            why = why or (f"finish reason {end}" if end in _CUT else "") or ("" if text else "empty")
            samples.append((text, "ungradable" if verdict is None else _VERDICTS[verdict], why))
        return samples, listed


def _without(head: re.Pattern[str], text: str) -> str:
    """The text without the head that our prompt gives it."""
    found = head.match(text)
    return text[found.end() if found else 0 :].strip()


def read(path: Path, format: str | Format, source: str | None = None) -> Iterator[Entry]:
    """Yields the entries of a file or folder that `read_rows` reads, holding one at a time.

    `source` is the data set's name, which begins the ids; the format's own, or else the file's, if None.

    Raises:
        InputError: If the format is unknown, the file missing or damaged, or a row not of this format.
    """
    how = format_named(format)
    return _read_columns(path, how, source) if how.columns else _read_records(path, source)


def compares_by_value(path: Path, format: str | Format) -> bool:
    """Whether the answers to this file are compared by value rather than by the MATH convention.

    Files in MATH's formats are, if none of their solutions has a box: GSM8K's questions in the layout of the paper's
    teacher file, say. Of records the gold answers tell, see `are_plain`.
    """
    how = format_named(format)
    if how.by_value is not None:
        return how.by_value
    if how.columns:
        rows = (Row(value, path, line, how) for line, value in read_rows(path))
        return not any("\\boxed" in str(row.get("solution")[1]) for row in rows)
    return are_plain(str(value.get("gold", "")) for _, value in read_json_lines(path))


def _read_columns(path: Path, format: Format, source: str | None) -> Iterator[Entry]:
    name = source or format.source or path.absolute().name.lstrip(".").split(".")[0]
    lines: dict[int, int] = {}  # by a hash of the question's given id
    shared: dict[int, tuple[str, int]] = {}  # of questions with a sample a row, by a hash: id, samples so far
    number = 0
    for line, value in read_rows(path):
        row = Row(value, path, line, format)
        question, (samples, listed) = row.question(), row.samples()
        key = hash((question.question, question.gold))
        id, first = ("", 0) if listed else shared.get(key, ("", 0))
        if not id:
            id = row.name("id") or f"{name}-{number:05d}"  # ids sort as they count
            number += 1
            if "id" in format.columns and lines.setdefault(hash(id), line) != line:
                problem = f"'{id}' comes twice, first in line {lines[hash(id)]}"
                raise row.error(row.get("id")[0], f"{problem}; --columns id= numbers the questions instead")
        if not listed:
            shared[key] = id, first + len(samples)
        question = replace(question, id=id, source=source or question.source or name)
        left_out = [why for *_, why in samples if why]
        if _contradicts(question):
            question = replace(question, solution="")
            left_out.append("solution with another answer")
        yield Entry(
            question,
            [
                replace(rationale_for(question, k, text, "teacher"), verdict=verdict)
                for k, (text, verdict, why) in enumerate(samples, start=first)
                if not why
            ],
            tuple(left_out),
            alone=listed,
        )


def _contradicts(question: Question) -> bool:
    """Whether the solution, which is taken for a right rationale, states another answer than the gold one."""
    answer, gold = extract_answer(question.solution), question.gold
    return bool(answer and gold) and not (string_equal(answer or "", gold) or same_value(answer or "", gold))


def _read_records(path: Path, source: str | None) -> Iterator[Entry]:
    """Our own records: questions, or rationales; those of one question that follow each other are one entry."""
    for _, group in groupby(_records(path, source), key=lambda entry: (entry.question.id, not entry.rationales)):
        entries = list(group)
        rationales = [rationale for entry in entries for rationale in entry.rationales]
        yield Entry(entries[0].question, rationales, alone=False)


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
