r"""D_pos and D_neg as data sets of other trainers, and back.

    preference   {"prompt": …, "chosen": …, "rejected": …, "id": …}      TRL's DPOTrainer and its like
    unpaired     {"prompt": …, "completion": …, "label": true, "id": …}  TRL's KTOTrainer

`prompt` is the text the student reads (`Problem:\n…\nSolution:\n`), the others are rationales without EOS, which
trainers add. A file is written as .jsonl or .parquet, and read as `prepare` reads one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow import parquet

from datamodules.components.encoding.prompts import PLAIN
from datamodules.components.grading.extraction import extract_answer
from datamodules.components.records.records import Question, Rationale, Verdict, is_text, rationale_for, rationale_id
from dust2gold.core.errors import InputError
from dust2gold.core.files import write_bytes_atomically
from dust2gold.core.jsonl import write_json_lines
from dust2gold.prepare.readers import Entry

Row = dict[str, Any]


def preference_rows(rationales: Iterable[Rationale], most: int | None = None) -> Iterator[Row]:
    """Pairs the right and wrong rationales of each question, in their order, at most `most` of a question.

    The i-th pair has the i-th right and the i-th wrong one, the shorter list starting again: every rationale of a
    question that has both stands in at least one pair.
    """
    for question, (right, wrong) in _by_question(rationales).items():
        count = max(len(right), len(wrong)) if right and wrong else 0
        for k in range(count if most is None else min(most, count)):
            chosen, rejected = right[k % len(right)], wrong[k % len(wrong)]
            texts = {"chosen": chosen.rationale, "rejected": rejected.rationale}
            yield {"prompt": PLAIN.ask(chosen.question), **texts, "id": rationale_id(question, k)}


def unpaired_rows(rationales: Iterable[Rationale], most: int | None = None) -> Iterator[Row]:
    """One row per right or wrong rationale; `most` of each question and verdict."""
    for right, wrong in _by_question(rationales).values():
        for one in (*right[:most], *wrong[:most]):
            graded = {"completion": one.rationale, "label": one.verdict == "positive"}
            yield {"prompt": PLAIN.ask(one.question), **graded, "id": one.id}


def _by_question(rationales: Iterable[Rationale]) -> dict[str, tuple[list[Rationale], list[Rationale]]]:
    sides: dict[str, tuple[list[Rationale], list[Rationale]]] = {}
    for rationale in rationales:
        right, wrong = sides.setdefault(rationale.question_id, ([], []))
        if rationale.verdict != "ungradable":
            (right if rationale.verdict == "positive" else wrong).append(rationale)
    return sides


class Layout(NamedTuple):
    """One of the two forms of a row: `texts` are its fields of rationales with their verdicts, None if in `label`."""

    make: Callable[[Iterable[Rationale], int | None], Iterator[Row]]
    texts: Mapping[str, Verdict | None]
    about: str


_SIDES: dict[str, Verdict | None] = {"chosen": "positive", "rejected": "negative"}
LAYOUTS = {
    "preference": Layout(preference_rows, _SIDES, "prompt, chosen, rejected (DPO)"),
    "unpaired": Layout(unpaired_rows, {"completion": None}, "prompt, completion, label (KTO)"),
}
LAYOUTS_HELP = "; ".join(f"{name}: {layout.about}" for name, layout in LAYOUTS.items())


def imported(rows: Iterable[tuple[int, Row]], layout: str, source: str, file: Path) -> list[Entry]:
    """Turns rows back into questions with their right and wrong rationales; equal prompts are one question.

    Equal rationales of a question are one in pairs, which repeat them; unpaired, each row is a rationale. A prompt in
    our template loses it, any other is taken as the question. The verdicts are the rows' own; the gold answer is that
    of the question's first right rationale, "" where there is none.

    Raises:
        InputError: If a row lacks a field or has another type in it.
    """
    graded: dict[str, list[tuple[str, Verdict]]] = {}  # by question
    for line, row in rows:
        asked = _text(row, "prompt", file, line)
        if asked.startswith(PLAIN.before) and asked.endswith(PLAIN.after) and len(asked) > len(PLAIN.ask("")):
            asked = asked[len(PLAIN.before) : -len(PLAIN.after)]
        known = graded.setdefault(asked, [])
        for field, verdict in LAYOUTS[layout].texts.items():
            text, label = _text(row, field, file, line), row.get("label")
            if verdict is None and not isinstance(label, bool):
                problem = f"true or false was expected, found {ascii(label)[:40]}"
                raise InputError(problem, file=file, line=line, field="label", remedy="true marks a right completion")
            known.append((text, verdict or ("positive" if label else "negative")))
    entries = []
    for number, (asked, known) in enumerate(graded.items()):
        texts = list(dict.fromkeys(known)) if layout == "preference" else known
        right = (extract_answer(text) for text, verdict in texts if verdict == "positive")
        gold = next((answer for answer in right if answer), "")
        question = Question(f"{source}-{number:05d}", asked, gold, solution="", subject="", level="", source=source)
        rationales = [
            replace(rationale_for(question, k, text, "teacher"), answer=extract_answer(text), verdict=verdict)
            for k, (text, verdict) in enumerate(texts)
        ]
        entries.append(Entry(question, rationales))
    return entries


def _text(row: Row, field: str, file: Path, line: int) -> str:
    value = row.get(field)
    if isinstance(value, str) and value.strip() and is_text(value):
        return value
    if isinstance(value, list):
        problem, remedy = "a conversation, not a text", "apply a chat template first, so that it becomes one text"
    else:
        problem = f"non-empty text was expected, found {type(value).__name__}"
        remedy = "a row has " + " or ".join(layout.about for layout in LAYOUTS.values())
    raise InputError(problem, file=file, line=line, field=field, remedy=remedy)


def write_rows(file: Path, rows: Iterable[Row]) -> int:
    """Writes rows as the file's ending says, whole or not at all, and returns how many there are.

    Raises:
        InputError: If the file cannot be written, or there is no row to write.
    """
    if file.suffix == ".jsonl":
        return write_json_lines(file, rows)
    if file.suffix != ".parquet":
        remedy = "end its name in .jsonl or .parquet"
        raise InputError(f"unknown kind of file '{file.suffix}'", file=file, remedy=remedy)
    listed, buffer = list(rows), io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(listed), buffer)
    write_bytes_atomically(file, buffer.getvalue())
    return len(listed)
