"""Wrong labels: verdicts that a stage does not train on, rationales given twice, answers both right and wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.components.grading.answers import canonical
from datamodules.components.records.records import Verdict
from datamodules.components.table import Examples
from dust2gold.core.errors import InputError
from dust2gold.core.text import spelled

Verdicts = Literal["positive", "negative", "both"]
"""What a stage trains on: right rationales, wrong ones, or some of each."""

_COLUMNS = ["id", "question_id", "writer", "verdict", "answer", "line"]
_GRADED: tuple[Verdict, Verdict] = ("positive", "negative")


def check_verdicts(examples: Examples, wanted: Verdicts | None, file: Path) -> None:
    """Refuses a file with rationales of the verdict that is not wanted; ungradable ones are not looked at here."""
    if wanted not in ("positive", "negative"):
        return
    unwanted = examples.where(examples.has_verdict("negative" if wanted == "positive" else "positive"))
    if len(unwanted):
        verdict = "right" if wanted == "negative" else "wrong"
        raise InputError(
            f"'{unwanted[0].id}' is {verdict}, and this stage trains on {wanted} rationales",
            file=file,
            line=int(unwanted.numbers("line")[0]),
            field="verdict",
            remedy=f"give it {wanted}.jsonl, or ask for others with --data.verdicts positive, negative or both",
        )


def check_both(examples: Examples) -> None:
    """Refuses data without a right or without a wrong rationale."""
    for verdict, other in (_GRADED, _GRADED[::-1]):
        if not examples.has_verdict(verdict).any():
            remedy = f"list {verdict}.jsonl too, or say --data.verdicts {other} if that is meant"
            problem = f"no {verdict} rationale, and this stage trains on positive and negative ones"
            raise InputError(problem, field="data.train", remedy=remedy)


class Labels:
    """The labels in some files, whatever limits leave of their rationales."""

    def __init__(self, files: Sequence[tuple[Path, Examples]]) -> None:
        self._files = [file for file, _ in files]
        tables = [part.table.data.table.select(_COLUMNS) for _, part in files]
        self._table = pa.concat_tables(tables)
        self._file = np.repeat(np.arange(len(tables)), [len(table) for table in tables])  # [n]

    def check_unique(self) -> None:
        """Refuses a rationale that comes twice: an id is unique among those of one writer."""
        codes, names = _coded(pc.binary_join_element_wise(self._table["writer"], self._table["id"], "\0"))
        if len(names) == len(codes):
            return
        _, firsts = np.unique(codes, return_index=True)  # [names]
        repeated = np.ones(len(codes), bool)
        repeated[firsts] = False
        row = int(repeated.argmax())
        file, line = self._place(row)
        raise InputError(
            f"'{self._table['id'][row]}' comes twice, first in {_shown(self._place(firsts[codes[row]]))}",
            file=file,
            line=line,
            field="id",
            remedy="keep one of each in data.train and data.validation; texts of others need a `writer` of their own",
        )

    def report_contradictions(self) -> None:
        """Says on stderr how many answers are right in one rationale of a question and wrong in another."""
        verdict, answers = self._table["verdict"], self._table["answer"]
        sides = [pc.and_(pc.equal(verdict, side), pc.is_valid(answers)).to_numpy() for side in _GRADED]  # [n] each
        if not all(side.any() for side in sides):
            return
        texts, written = _coded(pc.fill_null(answers, ""))
        values, _ = _coded(pa.chunked_array([[canonical(text) for text in written]]))
        questions, _ = _coded(self._table["question_id"])
        keys = questions.astype(np.int64) * len(written) + values[texts]  # [n], of the question and the answer's value
        found = np.intersect1d(keys[sides[0]], keys[sides[1]])
        if not len(found):
            return
        right, wrong = (int((side & (keys == found[0])).argmax()) for side in sides)
        print(
            f"warning: {len(found):,} answers to a question are right in one rationale and wrong in another, e.g. "
            f"'{spelled(answers[right].as_py())}' in {_shown(self._place(right))}, '{spelled(answers[wrong].as_py())}' "
            f"in {_shown(self._place(wrong))}; `prepare` grades them alike with --grader semantic",
            file=sys.stderr,
        )

    def _place(self, row: int) -> tuple[Path, int]:
        return self._files[self._file[row]], self._table["line"][int(row)].as_py()


def _coded(column: Any) -> tuple[Any, list[str]]:
    """A number for each text of a column [n], and the texts by their numbers."""
    coded = column.dictionary_encode().combine_chunks()
    return coded.indices.to_numpy(), coded.dictionary.to_pylist()


def _shown(place: tuple[Path, int]) -> str:
    return spelled(f"{place[0]}:{place[1]}")
