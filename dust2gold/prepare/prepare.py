"""A data set, in its publisher's format or any other, becomes graded records, D_pos and D_neg of the paper.

Reads, grades and writes as a stream, a batch of questions at a time:

    OUTPUT/positive.jsonl     rationales whose answer is the gold one (D_pos)
    OUTPUT/negative.jsonl     the others (D_neg)
    OUTPUT/ungradable.jsonl   rationales that could not be graded, for nobody to train on; only if there are any
    OUTPUT/questions.jsonl    the questions
    OUTPUT/solutions.jsonl    the data set's own solutions as right rationales; only if it has any
    OUTPUT/summary.json       how many of each, by subject too; where they come from

Each file is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from datamodules.components.grading.extraction import extract_answer
from datamodules.components.grading.grader import StringGrader
from datamodules.components.grading.semantic import Grader, open_grader
from datamodules.components.records.records import Question, Rationale, Verdict, rationale_for
from dust2gold.core.errors import InputError
from dust2gold.core.files import free_aside, keep_inputs, open_text, sha256_of, write_atomically, write_json
from dust2gold.prepare.formats import Format, format_named
from dust2gold.prepare.readers import Entry, compares_by_value, read
from dust2gold.prepare.rows import count_rows, is_folder
from dust2gold.prepare.summary import Summary, Tally, Verdicts

_FILES = (
    *(f"{name}.jsonl" for name in ("positive", "negative", "ungradable", "questions", "solutions")),
    "summary.json",
)
_BATCH = 256  # questions graded together: keeps the workers busy, and the memory small


def prepare(
    input: Path,
    format: str | Format,
    output: Path,
    grader: str = "string",
    source: str | None = None,
    limit: int | None = None,
    workers: int | None = None,
    time_limit: float = 5.0,
    max_samples: int | None = None,
    answer_pattern: re.Pattern[str] | None = None,
    verdicts: Verdicts | None = None,
) -> Summary:
    """Reads a data set, grades its rationales and writes them by verdict into the directory `output`.

    The arguments are the options of the command, where they are explained (`prepare --help`). `format` may also be one
    of your own; of "records" the rationales are graded anew, from their text. `verdicts` are by default those that the
    data and we agree on, without gold answers those given.

    Raises:
        InputError: If the input is not as the format wants it or holds no question, or the output cannot be written.
    """
    keep_inputs([input], (output / name for name in _FILES))
    identity, how = _identity(input), format_named(format)
    by_value = compares_by_value(input, how)
    tally = Tally(Summary(grader, "values" if by_value else "strings", identity, verdicts=_choose(verdicts, how)))
    entries = _first(read(input, how, source), limit, max_samples)
    # The bar counts the input's rows; with a limit nobody knows how many those are.
    bar = tqdm(total=count_rows(input) if limit is None else None, desc=f"prepare {input.name}", unit=" lines")
    cache = output / "math-verify.jsonl"
    # In the paper no box counts as wrong. Where none was asked for, it would make right answers D_neg.
    unstated: Verdict = "ungradable" if by_value or answer_pattern is not None else "negative"
    strings = StringGrader(by_value, by_value, unstated, answer_pattern)
    with bar, open_grader(grader, strings, workers=workers, time_limit=time_limit, cache=cache) as judge:
        with _Outputs(output) as outputs:
            while batch := list(islice(entries, _BATCH)):
                for entry in _graded(batch, judge, tally):
                    outputs.add(entry.question if tally.add(entry) else None, entry.rationales)
                    bar.update(1 if entry.alone else len(entry.rationales) or 1)
            if tally.summary.questions == 0:
                raise InputError("holds no question", file=input, remedy="check that this is the file you meant")
            _keep_earlier(output, identity)
        for name in {"ungradable", "solutions"} - outputs.files.keys():
            (output / f"{name}.jsonl").unlink(missing_ok=True)  # an earlier run's
        summary = tally.finished(judge.reasons)
    write_json(output / "summary.json", summary.to_json(), indent=2)
    return summary


def _keep_earlier(output: Path, identity: dict[str, str]) -> None:
    """Moves the results of another input, which the new ones would replace, into a directory of their own."""
    try:
        earlier = json.loads((output / "summary.json").read_text(encoding="utf-8"))["input"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if earlier != identity["sha256"]:
        kept = free_aside(output / "results", "earlier")
        kept.mkdir()
        for name in _FILES:
            if (output / name).exists():
                (output / name).rename(kept / name)
        tqdm.write(f"{output} held what was made of another file; kept in {kept}", file=sys.stderr)


def _identity(input: Path) -> dict[str, str]:
    if is_folder(input):
        files = sorted(file for file in input.rglob("*") if file.is_file())
        sums = "".join(f"{file.relative_to(input)} {sha256_of(file)}\n" for file in files)
        return {"name": input.name, "sha256": hashlib.sha256(sums.encode()).hexdigest()}
    open_text(input).close()  # tells of a missing file
    return {"name": input.name, "sha256": sha256_of(input)}


def _choose(verdicts: Verdicts | None, format: Format) -> Verdicts | None:
    """Which verdicts count; None where there are only ours."""
    if "verdict" in format.columns:
        return verdicts or ("both" if {"gold", "solution"} & format.columns.keys() else "given")
    if verdicts in ("given", "both"):
        remedy = "say which column holds them: --columns verdict=COLUMN"
        raise InputError("these data give no verdicts", field="--verdicts", remedy=remedy)
    return None


def _first(entries: Iterable[Entry], limit: int | None, most: int | None) -> Iterator[Entry]:
    """The entries of the first so many questions, with the first so many rationales of each."""
    questions = 0
    taken: dict[str, int] = {}  # rationales by question, of those that several entries may have
    for entry in entries:
        known = None if entry.alone else taken.get(entry.question.id)
        if known is None and questions == limit:
            if entry.alone:
                return
            continue
        questions += known is None
        rationales = entry.rationales[: None if most is None else max(most - (known or 0), 0)]
        if not entry.alone and (limit, most) != (None, None):
            taken[entry.question.id] = (known or 0) + len(rationales)
        yield entry._replace(rationales=rationales)


def _graded(batch: list[Entry], grader: Grader, tally: Tally) -> Iterator[Entry]:
    """The entries with their rationales' answers and the verdicts that count."""
    pairs = [(rationale.rationale, rationale.gold) for entry in batch for rationale in entry.rationales]
    grades = iter(grader.grade_many(pairs))
    for entry in batch:
        own = zip(entry.rationales, islice(grades, len(entry.rationales)), strict=True)
        records = [(replace(record, answer=answer), verdict) for record, (verdict, answer) in own]
        yield entry._replace(
            rationales=[replace(each, verdict=tally.verdict(each, graded)) for each, graded in records]
        )


class _Outputs(contextlib.ExitStack):
    """The files of records by name, moved into place together when the block ends well."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self.files: dict[str, TextIO] = {}

    def __enter__(self) -> _Outputs:
        super().__enter__()
        for name in ("positive", "negative", "questions"):  # there even if empty
            self._open(name)
        return self

    def _open(self, name: str) -> TextIO:
        if name not in self.files:
            self.files[name] = self.enter_context(write_atomically(self._directory / f"{name}.jsonl"))
        return self.files[name]

    def add(self, question: Question | None, rationales: Iterable[Rationale]) -> None:
        """Writes a question, if it is new, and its graded rationales."""
        records: list[tuple[str, Question | Rationale]] = [(rationale.verdict, rationale) for rationale in rationales]
        if question is not None:
            records.append(("questions", question))
            if question.solution:
                records.append(("solutions", own_solution(question)))
        for name, record in records:
            self._open(name).write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")


def own_solution(question: Question) -> Rationale:
    """The data set's own solution as a right rationale; one that boxes no answer gets its box."""
    text = question.solution
    if extract_answer(text) is None:
        text = f"{text.rstrip()}\nThe answer is \\boxed{{{question.gold}}}."
    name = f"{question.id}/solution"  # no sample's: several stages train on both
    own = rationale_for(question, 0, text, "dataset")
    return replace(own, id=name, answer=extract_answer(text), verdict="positive")
