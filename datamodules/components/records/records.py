r"""The two records that stages hand over: a question, and a rationale written for it.

One JSON object a line, for example (shortened):

    {"schema": 1, "id": "math-train-00000", "question": "If ...", "gold": "-\\frac{3}{10}", ...}
    {"schema": 1, "id": "math-train-00000/3", "question_id": "math-train-00000", "rationale": "Adding ...", ...}

`docs/formats.md` says what each field means. Reading is strict: a missing, unknown or ill-typed field is an error
that names file, line and field, because a record that is silently half read mislabels training data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import read_json_lines, write_json_lines

SCHEMA_VERSION = 1

Verdict = Literal["positive", "negative", "ungradable"]
VERDICTS: tuple[Verdict, ...] = ("positive", "negative", "ungradable")

_AnyRecord = TypeVar("_AnyRecord", bound="_Record")
_File = str | PathLike[str] | None


def is_text(value: object) -> bool:
    """Whether `value` is a string that UTF-8 can hold: JSON's escapes can spell half a surrogate pair, it cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a field may hold: the test, and its name in the error message."""

    accepts: Callable[[object], bool]
    name: str

    def or_null(self) -> _Kind:
        return _Kind(lambda value: value is None or self.accepts(value), f"{self.name} or null")


_TEXT = _Kind(is_text, "text")
_NAME = _Kind(lambda value: is_text(value) and value != "", "non-empty text")
_INTEGER = _Kind(_is_integer, "an integer")
_COUNT = _Kind(lambda value: _is_integer(value) and cast(int, value) >= 0, "a count (0 or more)")
_NUMBER = _Kind(_is_finite, "a finite number")
_UNIT = _Kind(lambda value: _is_finite(value) and 0 <= cast(float, value) <= 1, "a number from 0 to 1")
_VERDICT = _Kind(lambda value: value in VERDICTS, " | ".join(VERDICTS))

_QUESTION_FIELDS = {
    "id": _NAME,
    "question": _NAME,
    **dict.fromkeys(["gold", "solution", "subject", "level", "source"], _TEXT),
}
_RATIONALE_FIELDS = {
    **dict.fromkeys(("id", "question_id", "question"), _NAME),
    **dict.fromkeys(("gold", "rationale"), _TEXT),
    "answer": _TEXT.or_null(),
    "verdict": _VERDICT,
    **dict.fromkeys(("subject", "level", "source", "writer"), _TEXT),
    "logprob": _NUMBER.or_null(),
    "tokens": _COUNT.or_null(),
    "seed": _INTEGER.or_null(),
    "score": _UNIT.or_null(),
}


class _Record:
    """How both records are written as JSON objects, and read strictly."""

    __slots__ = ()
    kinds: ClassVar[Mapping[str, _Kind]]  # of each field, in the order of the file

    @classmethod
    def from_json(
        cls: type[_AnyRecord], value: Mapping[str, Any], file: _File = None, line: int | None = None
    ) -> _AnyRecord:
        """Builds the record from a decoded JSON object.

        Raises:
            InputError: Naming `file`, `line` and the field that is missing, unknown or of the wrong type.
        """
        return cls(**_checked(value, cls.kinds, cls.__name__.lower(), file, line))

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, with its schema version first."""
        return {"schema": SCHEMA_VERSION, **{name: getattr(self, name) for name in self.kinds}}


@dataclass(frozen=True, slots=True)
class Question(_Record):
    """One line of questions.jsonl."""

    kinds = _QUESTION_FIELDS

    id: str  # unique in its data set, e.g. "math-train-00017"
    question: str  # bare text, without "Problem:"
    gold: str  # the bare gold answer, "" where the data set gives none
    solution: str  # the data set's own, "" where it has none
    subject: str  # e.g. "Algebra", or ""
    level: str  # e.g. "Level 4", or ""
    source: str  # the data set's name, e.g. "math-train"


@dataclass(frozen=True, slots=True)
class Rationale(_Record):
    """One line of positive.jsonl, negative.jsonl, ungradable.jsonl or samples.jsonl."""

    kinds = _RATIONALE_FIELDS

    id: str  # "<question_id>/<k>", k counting the question's samples from 0
    question_id: str
    question: str
    gold: str
    rationale: str  # bare text, without "Solution:"
    answer: str | None  # extracted from the rationale; None where there is none
    verdict: Verdict  # how it was graded against `gold`
    subject: str
    level: str
    source: str
    writer: str  # "teacher", "dataset", or the run whose adapter wrote it, such as "nat", "nce"
    logprob: float | None = None  # natural log of the generated tokens' probability (EOS included) at temperature 1
    tokens: int | None = None  # how many tokens that sum covers
    seed: int | None = None  # the sample's own
    score: float | None = None  # M_rank's, 0 to 1


def question_of(rationale: Rationale) -> Question:
    """The question as far as a rationale knows it: without the data set's own solution."""
    own = rationale
    return Question(own.question_id, own.question, own.gold, "", own.subject, own.level, own.source)


def rationale_for(question: Question, k: int, text: str, writer: str) -> Rationale:
    """The `k`-th rationale written for a question, still to be graded."""
    asked, about = (question.id, question.question, question.gold), (question.subject, question.level, question.source)
    return Rationale(rationale_id(question.id, k), *asked, text, None, "ungradable", *about, writer)


def _checked(
    value: Mapping[str, Any], kinds: Mapping[str, _Kind], record: str, file: _File, line: int | None
) -> dict[str, Any]:
    """`value` without its schema field, once every field is there and of its kind."""

    def error(problem: str, field: str, remedy: str) -> InputError:
        return InputError(problem, file=file, line=line, field=field, remedy=remedy)

    if "schema" not in value:
        raise error("missing", "schema", f'a {record} record says "schema": {SCHEMA_VERSION}; see docs/formats.md')
    if value["schema"] != SCHEMA_VERSION or not _is_integer(value["schema"]):
        found = f"schema version {value['schema']!r}, this program reads {SCHEMA_VERSION}"
        raise error(found, "schema", "make the file again with `dust2gold prepare`")
    for name, kind in kinds.items():
        if name not in value:
            raise error("missing", name, f"a {record} record needs: {', '.join(kinds)}")
        if not kind.accepts(value[name]):
            found = ascii(value[name])
            shown = f"{type(value[name]).__name__} {found if len(found) <= 40 else found[:40] + '...'}"
            raise error(f"{kind.name} was expected, found {shown}", name, "mend this line or make it again")
    unknown = [name for name in value if name not in kinds and name != "schema"]
    if unknown:
        raise error("unknown", unknown[0], f"a {record} record has only: schema, {', '.join(kinds)}")
    return {name: value[name] for name in kinds}


def rationale_id(question: str, k: int) -> str:
    """The id of the `k`-th sample (from 0) of the question with this id: "math-train-00017/3"."""
    return f"{question}/{k}"


def read_questions(path: Path) -> Iterator[Question]:
    """Yields the questions of a `.jsonl`, `.jsonl.gz` or `.jsonl.xz` file, one at a time.

    Raises:
        InputError: If the file is missing or damaged, a line is no question record, or an id comes twice.
    """
    return (question for _, question in numbered_questions(path))


def numbered_questions(path: Path) -> Iterator[tuple[int, Question]]:
    """As `read_questions`, each with its line."""
    return _numbered(path, Question, once=True)


def read_rationales(path: Path, once: bool = False) -> Iterator[Rationale]:
    """Yields the rationales of a `.jsonl`, `.jsonl.gz` or `.jsonl.xz` file, one at a time.

    Raises:
        InputError: If the file is missing or damaged, a line is no rationale record or, with `once`, an id comes twice.
    """
    return (rationale for _, rationale in _numbered(path, Rationale, once))


def _numbered(path: Path, record: type[_AnyRecord], once: bool) -> Iterator[tuple[int, _AnyRecord]]:
    seen: set[str] = set()
    for line, value in read_json_lines(path):
        built: Any = record.from_json(value, path, line)
        if once and built.id in seen:
            raise InputError(f"'{built.id}' comes twice", file=path, line=line, field="id", remedy="keep one of each")
        if once:
            seen.add(built.id)
        yield line, built


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Writes questions.jsonl whole or not at all, and returns how many records it holds."""
    return write_json_lines(path, (question.to_json() for question in questions))


def write_rationales(path: Path, rationales: Iterable[Rationale]) -> int:
    """Writes a file of rationales whole or not at all, and returns how many records it holds."""
    return write_json_lines(path, (rationale.to_json() for rationale in rationales))
