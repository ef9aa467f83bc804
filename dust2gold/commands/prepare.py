"""`prepare`: a data set in its publisher's format becomes graded records, D_pos and D_neg of the paper.

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

import argparse
import contextlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from datamodules.components.grading.grader import Grader, extract_answer
from datamodules.components.grading.semantic import GRADERS, open_grader
from datamodules.components.records.hub import hub_table
from datamodules.components.records.readers import FORMATS, Entry, compares_by_value, format_named, read
from datamodules.components.records.records import Question, Rationale, rationale_id
from dust2gold.commands.summary import Summary, Tally, print_summary
from dust2gold.core.errors import InputError
from dust2gold.core.files import open_text, sha256_of, write_atomically
from dust2gold.core.jsonl import count_lines

__all__ = ["Summary", "add_arguments", "main", "prepare", "print_summary"]

_BATCH = 256  # questions graded together: keeps the workers busy, and the memory small


def prepare(
    input: Path,
    format: str,
    output: Path,
    grader: str = "string",
    source: str | None = None,
    limit: int | None = None,
    workers: int | None = None,
    time_limit: float = 5.0,
    max_samples: int | None = None,
) -> Summary:
    """Reads a data set, grades its rationales and writes them by verdict into the directory `output`.

    Args:
        input: `.jsonl`, `.jsonl.gz` or `.jsonl.xz` file in its publisher's format.
        format: A key of `readers.FORMATS`. Of "records" the rationales are graded anew, from their text.
        output: Directory for the results; files of the same names there are replaced.
        grader: "string", "semantic" or "both" (positive and negative only where the two agree).
        source: The data set's name; the format's own if None.
        limit: Read only the first so many questions.
        workers: math-verify processes; the number of usable cores if None.
        time_limit: Seconds of processor time math-verify has for one answer.
        max_samples: Take only the first so many rationales of each question.

    Returns:
        What summary.json holds.

    Raises:
        InputError: If the input is not as the format wants it or holds no question, or the output cannot be written.
    """
    identity = _identity(input)
    by_value = compares_by_value(input, format)
    summary = Summary(grader, "values" if by_value else "strings", identity)
    entries = (
        Entry(question, rationales[:max_samples]) for question, rationales in islice(read(input, format, source), limit)
    )
    tally = Tally(summary, ids_repeat=format_named(format).row is None)
    cache = output / "math-verify.jsonl"
    with open_grader(grader, by_value=by_value, workers=workers, time_limit=time_limit, cache=cache) as judge:
        with _Outputs(output) as outputs, _progress(input, limit) as bar:
            for batch in _batches(entries, _BATCH):
                for question, rationales in _graded(batch, judge):
                    if tally.add(question, rationales):
                        outputs.add_question(question)
                    outputs.add_rationales(rationales)
                    bar.update(len(rationales) if tally.ids_repeat and rationales else 1)
            if summary.questions == 0:
                raise InputError("holds no question", file=input, remedy="check that this is the file you meant")
        summary.ungradable_because = dict(judge.reasons)
        for name in {"ungradable", "solutions"} - outputs.names:
            (output / f"{name}.jsonl").unlink(missing_ok=True)  # an earlier run's
    _write_summary(output, tally.finished())
    return summary


def _identity(input: Path) -> dict[str, str]:
    open_text(input).close()
    try:
        return {"name": input.name, "sha256": sha256_of(input)}
    except OSError as error:
        raise InputError(
            f"cannot read ({error.strerror or error})", file=input, remedy="check the file's permissions"
        ) from error


def _batches(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    stream = iter(entries)
    while batch := list(islice(stream, size)):
        yield batch


def _graded(batch: list[Entry], grader: Grader) -> Iterator[Entry]:
    """The entries with their rationales' answers and verdicts."""
    pairs = [(rationale.rationale, rationale.gold) for entry in batch for rationale in entry.rationales]
    grades = iter(grader.grade_many(pairs))
    for question, rationales in batch:
        verdicts = islice(grades, len(rationales))
        yield Entry(
            question,
            [
                replace(rationale, verdict=verdict, answer=answer)
                for rationale, (verdict, answer) in zip(rationales, verdicts, strict=True)
            ],
        )


class _Outputs(contextlib.ExitStack):
    """The files of records, moved into place together when the block ends well."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._files: dict[str, TextIO] = {}

    def __enter__(self) -> _Outputs:
        super().__enter__()
        for name in ("positive", "negative", "questions"):
            self._file(name)
        return self

    @property
    def names(self) -> set[str]:
        """Of the files that hold something, or are always there."""
        return set(self._files)

    def _file(self, name: str) -> TextIO:
        if name not in self._files:
            self._files[name] = self.enter_context(write_atomically(self._directory / f"{name}.jsonl"))
        return self._files[name]

    def add_question(self, question: Question) -> None:
        _write_line(self._file("questions"), question.to_json())
        if question.solution:
            _write_line(self._file("solutions"), own_solution(question).to_json())

    def add_rationales(self, rationales: Iterable[Rationale]) -> None:
        for rationale in rationales:
            _write_line(self._file(rationale.verdict), rationale.to_json())


def own_solution(question: Question) -> Rationale:
    """The data set's own solution as a right rationale (Fine-tune, RANK); one that boxes no answer gets its box."""
    text = question.solution
    if extract_answer(text) is None:
        text = f"{text.rstrip()}\nThe answer is \\boxed{{{question.gold}}}."
    return Rationale(
        id=rationale_id(question.id, 0),
        question_id=question.id,
        question=question.question,
        gold=question.gold,
        rationale=text,
        answer=extract_answer(text),
        verdict="positive",
        subject=question.subject,
        level=question.level,
        source=question.source,
        writer="dataset",
    )


def _write_line(stream: TextIO, value: dict[str, Any]) -> None:
    stream.write(json.dumps(value, ensure_ascii=False) + "\n")


def _write_summary(output: Path, summary: Summary) -> None:
    with write_atomically(output / "summary.json") as stream:
        json.dump(summary.to_json(), stream, indent=2, ensure_ascii=False)
        stream.write("\n")


def _progress(input: Path, limit: int | None) -> tqdm[Any]:
    """A bar that counts the input's lines; with a limit, where the end is not known by lines, only the lines done."""
    total = count_lines(input) if limit is None else None
    return tqdm(total=total, desc=f"prepare {input.name}", unit=" lines", dynamic_ncols=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `prepare` to a parser; `main` takes what it parses."""
    parser.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="data set as published: .jsonl, .jsonl.gz or .jsonl.xz; or hub:NAME, as hub:openai/gsm8k: fetched with "
        "`datasets` and kept beside the results",
    )
    parser.add_argument(
        "--subset", type=_list, default=(), metavar="NAME[,NAME]", help="of a hub's data set, e.g. main; all in turn"
    )
    parser.add_argument("--split", help="of a hub's data set (default: test)")
    parser.add_argument("--revision", help="of a hub's data set: branch, tag or commit (default: the newest)")
    parser.add_argument(
        "--format",
        choices=list(FORMATS),
        required=True,
        help="its format; tdg: the paper's teacher samples; records: our own files, graded anew",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory for the results")
    parser.add_argument(
        "--grader",
        choices=GRADERS,
        default="string",
        help="string: the paper's labels (default); semantic: math-verify for what the string comparison rejects; "
        "both: keep only what the two agree on",
    )
    parser.add_argument(
        "--source", metavar="NAME", help="name of the data set in ids and tables (default: the format's)"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="read only the first N questions")
    parser.add_argument(
        "--samples", type=_positive, metavar="N", help="take only the first N rationales of each question"
    )
    parser.add_argument("--workers", type=_positive, metavar="N", help="math-verify processes (default: one a core)")
    parser.add_argument(
        "--time-limit",
        type=_seconds,
        default=5.0,
        metavar="S",
        help="seconds of processor time for one answer; past it the rationale is ungradable (default: %(default)s)",
    )


def _list(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return number


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0")


def main(args: argparse.Namespace) -> int:
    """Runs `prepare` as the command line asks and prints the summary; returns the exit code."""
    table = hub_table(args.input, args.subset, args.split, args.revision)
    summary = prepare(
        Path(args.input) if table is None else table.fetch(args.output),
        args.format,
        args.output,
        args.grader,
        source=args.source,
        limit=args.limit,
        workers=args.workers,
        time_limit=args.time_limit,
        max_samples=args.samples,
    )
    print_summary(summary)
    return 0
