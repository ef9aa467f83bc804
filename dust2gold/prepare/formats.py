"""The layouts of data sets that `prepare` knows by name: which column plays which role.

A column may be a path into a struct (`correctness.math_verify_answer`) or, in a chat, the message of a role
(`messages.user`). Of columns with `|` between them the first that a row has counts; `|` at the end: it may have none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datamodules.components.grading.answers import plain_number
from dust2gold.core.errors import InputError

ROLES = {
    "question": "its text",
    "body": "text that stands before the question",
    "gold": "gold answer; without this role it is looked for in the solution",
    "solution": "the data set's own solution",
    "samples": "rationales: a list in each row, or one a row",
    "verdict": "whether a sample is right: true or false, 1 or 0, positive or negative",
    "keep": "whether a sample is complete; others are left out",
    "finish": "why a sample ended; `length` and `content_filter` are left out",
    "id": "of the question; else questions are numbered",
    "source": "data set that the question is from",
    "subject": "",
    "level": "a number n becomes `Level n`",
}
"""What a column can be for."""

_CALCULATION = re.compile(r"<<[^<>]*>>")
_WITH_UNIT = re.compile(r"(.*?)\s*\(([^()]*)\)")


@dataclass(frozen=True)
class Format:
    """How to read a data set."""

    source: str  # its name where the user gives none; "": the file's name, and of records their own
    columns: Mapping[str, str]  # by role; none for records, which are read by their schema
    by_value: bool | None = True  # whether answers are compared by value, not by the MATH convention; None: look
    through: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)  # what a role's value goes through


def _after_hashes(answer: Any) -> str:
    """GSM8K's gold answer, in the last line of its solution: `#### 18`."""
    _, marks, gold = str(answer).rpartition("####")
    if not marks or not gold.strip():
        raise ValueError("no gold answer after ####")
    return plain_number(gold) or gold.strip()


def _without_calculations(solution: Any) -> Any:
    """GSM8K's solution without its calculator's marks, `<<48/2=24>>`."""
    return _CALCULATION.sub("", solution) if isinstance(solution, str) else solution


def _without_unit(answer: Any) -> Any:
    """ASDiv's gold answer: of "9 (apples)" the number; what is no number ("Yes", "3:45") stays text."""
    if not isinstance(answer, str):
        return answer
    unit = _WITH_UNIT.fullmatch(answer.strip())
    return plain_number(unit[1] if unit else answer) or answer


def _number(value: Any) -> str:
    """A number, or text that is one, without its trailing zeros: 145.0 is "145"."""
    plain = None if isinstance(value, (bool, list, dict)) else plain_number(str(value))
    if plain is None:
        raise ValueError(f"a number was expected, found {ascii(value)[:60]}")
    return plain


def _list(value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"a list of texts was expected, found {type(value).__name__}")
    return value


_MATH = {"subject": "type", "level": "level"}
FORMATS: dict[str, Format] = {
    "tdg": Format(  # the paper's teacher data: MATH's training questions with several samples each
        "math-train",
        {"solution": "answer", "question": "question", "samples": "generated_answer", **_MATH},
        by_value=None,
        through={"samples": _list},
    ),
    "math": Format("math", {"solution": "solution", "question": "problem", **_MATH}, by_value=None),  # Hendrycks 2021
    "gsm8k": Format(  # Cobbe et al. 2021
        "gsm8k",
        {"gold": "answer", "solution": "answer", "question": "question"},
        through={"gold": _after_hashes, "solution": _without_calculations},
    ),
    "asdiv": Format(  # Miao et al. 2020
        "asdiv",
        {"gold": "answer", "body": "body", "question": "question", "solution": "formula", "subject": "solution_type"},
        through={"gold": _without_unit},
    ),
    "svamp": Format(  # Patel et al. 2021
        "svamp",
        {"body": "Body", "question": "Question", "gold": "Answer", "solution": "Equation", "subject": "Type"},
        through={"gold": _number},
    ),
    "multiarith": Format(  # Roy and Roth 2015, and the hub's copy
        "multiarith", {"question": "input|question", "gold": "target|final_ans"}, through={"gold": _number}
    ),
    "math500": Format(
        "math500",
        {"question": "problem", "gold": "answer", "solution": "solution|", "subject": "subject", "level": "level"}
        | {"id": "unique_id"},
        by_value=False,
    ),
    "openr1": Format(  # OpenR1-Math-220k, and -Raw; where a judge has looked, its verdict counts
        "openr1",
        {"question": "problem", "gold": "answer", "samples": "generations", "id": "uuid|", "subject": "problem_type|"}
        | {"solution": "solution|"}
        | {"verdict": "correctness_llama|correctness_math_verify|correctness.math_verify_answer"}
        | {"keep": "is_reasoning_complete|", "finish": "finish_reasons|"},
    ),
    "openmathinstruct1": Format(
        "openmathinstruct1",
        {"question": "question", "gold": "expected_answer", "samples": "generated_solution", "verdict": "is_correct"}
        | {"source": "dataset|"},
    ),
    "messages": Format(  # a chat a row, of one question and its answer
        "",
        {"question": "messages.user|conversations.human", "samples": "messages.assistant|conversations.gpt"}
        | {"gold": "answer|gold|expected_answer|ground_truth|"},
    ),
    "records": Format("", {}, by_value=None),
}


def format_named(name: str | Format | None, columns: Mapping[str, str] | None = None) -> Format:
    """The format of this name, with these columns in the place of its own; "" takes a role away.

    Raises:
        InputError: If there is no such format or role, or neither a format nor a column is given.
    """
    columns = columns or {}
    if unknown := [role for role in columns if role not in ROLES]:
        raise InputError(f"no role '{unknown[0]}'", field="--columns", remedy=f"choose from {', '.join(ROLES)}")
    if isinstance(name, str) and name not in FORMATS:
        raise InputError(f"unknown format '{name}'", field="--format", remedy=f"choose one of {', '.join(FORMATS)}")
    own = FORMATS[name] if isinstance(name, str) else name or Format("", {})
    if own is FORMATS["records"]:
        if columns:
            raise InputError("records have fields of their own", field="--columns", remedy="leave out --format records")
        return own
    given = {role: column for role, column in {**own.columns, **columns}.items() if column}
    if "question" not in given:
        remedy = "give --format NAME, or --columns question=COLUMN gold=COLUMN ..."
        raise InputError("which column holds the questions?", field="--columns", remedy=remedy)
    through = {role: convert for role, convert in own.through.items() if role not in columns}
    return Format(own.source, given, own.by_value, through)


def nearest(row: Mapping[str, Any]) -> str | None:
    """The format that most of a row's columns fit; None if none does."""

    def fit(format: Format) -> float:
        roles = [{column.split(".")[0] for column in names.split("|")} for names in format.columns.values()]
        return sum(not role.isdisjoint(row) for role in roles) / max(len(roles), 1)

    best = max(FORMATS, key=lambda name: fit(FORMATS[name]))
    return best if fit(FORMATS[best]) else None


MISSING = object()
"""What `at` finds where there is no such column."""


def at(row: Mapping[str, Any], column: str) -> Any:
    """What a column of this name or path holds.

    Raises:
        ValueError: If a chat has several messages of the role.
    """
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if value is None:
            return None
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and all(isinstance(message, Mapping) for message in value):
            said = [message for message in value if name in (message.get("role"), message.get("from"))]
            if len(said) > 1:
                raise ValueError(f"{len(said)} messages of '{name}': a question and its answer were expected")
            value = said[0].get("content", said[0].get("value")) if said else MISSING
        else:
            return MISSING
    return value
