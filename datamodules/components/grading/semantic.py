r"""Semantic grading: what the string comparison rejects goes to math-verify.

Of the samples that the string comparison rejects in the paper's teacher data, some 2% are right (`8!` for 40320, a
set in another order, `\frac{1}{\sqrt5}` for `\frac{\sqrt5}{5}`): label noise in D_neg. math-verify finds them, at a
thousand times the cost; so it is asked once per pair of gold answer and answer, not about two integers, and its replies
can be kept in a file.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from datamodules.components.grading.answers import LONGEST_ANSWER
from datamodules.components.grading.grader import Grade, StringGrader
from datamodules.components.grading.guards import GUARDS, are_equal
from datamodules.components.grading.verifier import Outcome, Pair, Verifier
from datamodules.components.records.records import Verdict
from dust2gold.core.errors import InputError
from dust2gold.core.files import open_in_place

_OUTCOMES: dict[str, Outcome] = {outcome: outcome for outcome in get_args(Outcome)}


class OutcomeCache(dict[Pair, Outcome]):
    """What math-verify said of each (gold, answer) pair, in memory and, if `path` is given, in a JSON-lines file.

    The file grows with every batch, so that an interrupted run loses little; a line that was cut off is skipped, with a
    warning. Outcomes of another version of math-verify or of our guards do not count, nor do overruns of a shorter
    time limit. A line:

        {"math_verify": "0.9.0", "guards": 1, "seconds": 5.0, "gold": "40320", "answer": "8!", "outcome": "equal"}
    """

    def __init__(self, path: Path | None, time_limit: float) -> None:
        self.path = path
        self._origin = {"math_verify": version("math-verify"), "guards": GUARDS, "seconds": time_limit}
        self._torn = False
        super().__init__(self._load(path) if path is not None and path.exists() else {})

    def _load(self, path: Path) -> Iterator[tuple[Pair, Outcome]]:
        unreadable, line = 0, "\n"
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    known = json.loads(line)
                    current = known["math_verify"] == self._origin["math_verify"] and known.get("guards") == GUARDS
                    if current and (known["outcome"] != "time limit" or known["seconds"] >= self._origin["seconds"]):
                        yield (str(known["gold"]), str(known["answer"])), _OUTCOMES[known["outcome"]]
                except (ValueError, KeyError, TypeError, RecursionError):
                    unreadable += 1
        self._torn = not line.endswith("\n")
        if unreadable:
            print(f"warning: {path}: left out {unreadable:,} unreadable lines; they are graded again", file=sys.stderr)

    def add(self, outcomes: Mapping[Pair, Outcome]) -> None:
        """Remembers these outcomes; in the file not those of a worker's death, which may be chance."""
        self.update(outcomes)
        if self.path is None or not outcomes:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open_in_place(self.path, "a") as stream:
                stream.write("\n" * self._torn)
                self._torn = False
                for (gold, answer), outcome in outcomes.items():
                    if outcome != "worker died":
                        line = {**self._origin, "gold": gold, "answer": answer, "outcome": outcome}
                        stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            problem = f"cannot write ({error.strerror or error})"
            raise InputError(problem, file=self.path, remedy="free some space or choose another output") from error


class SemanticGrader:
    """String comparison first; what it rejects is positive if it has the gold answer's value, or math-verify says so.

    Ungradable are rationales without a gold answer, with a gold answer that math-verify cannot read, and those whose
    comparison overran the time limit or killed its worker. Answers of more than 300 characters are not sent: they stay
    negative.

    Args:
        strings: The string comparison.
        workers: math-verify processes; the number of usable cores if None. They start with the first answer to compare.
        time_limit: Seconds of processor time for one answer.
        cache: JSON-lines file to keep math-verify's replies in; None: in memory only.

    Raises:
        InputError: If math-verify is not installed.
    """

    verdicts: Mapping[Outcome, Verdict] = MappingProxyType({"equal": "positive", "different": "negative"})
    """What becomes of a rationale that the string comparison rejected; other outcomes make it ungradable."""
    contradicted: Verdict = "negative"
    """What becomes of one that it accepted although the answers differ in value, as `guards.are_equal` sees it."""

    def __init__(
        self,
        strings: StringGrader | None = None,
        workers: int | None = None,
        time_limit: float = 5.0,
        cache: Path | None = None,
    ) -> None:
        self._strings = strings or StringGrader()
        self._verifier = Verifier(workers, time_limit)
        self._cache = OutcomeCache(cache, time_limit)

    @property
    def reasons(self) -> Counter[str]:
        """Why rationales were found ungradable so far."""
        return self._strings.reasons

    def grade_many(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Grades (rationale, gold) pairs; the grades come in the order of the pairs."""
        grades = self._strings.grade_many(pairs)
        rejected: dict[Pair, list[int]] = defaultdict(list)
        for index, ((_, gold), (verdict, answer)) in enumerate(zip(pairs, grades, strict=True)):
            if not answer or max(len(answer), len(gold)) > LONGEST_ANSWER:
                continue
            if verdict == "negative":
                rejected[gold, answer].append(index)
            elif verdict == "positive" and answer != gold and are_equal(gold, answer) is False:
                grades[index] = self.contradicted, answer  # the convention reads no further than 8:34 in "8:34 a.m."
                if self.contradicted == "ungradable":
                    self.reasons["the graders disagree"] += 1
        for pair, outcome in self._outcomes(list(rejected)):
            for index in rejected[pair]:
                grades[index] = self._verdict(outcome), grades[index][1]
        return grades

    def _verdict(self, outcome: Outcome) -> Verdict:
        if outcome in self.verdicts:
            return self.verdicts[outcome]
        self.reasons["the graders disagree" if outcome == "equal" else outcome] += 1
        return "ungradable"

    def _outcomes(self, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Outcome]]:
        """Yields (pair, outcome): of plain numbers and from the cache, then as math-verify's workers reply."""
        unknown = []
        for pair in pairs:
            if (equal := are_equal(*pair)) is not None:
                yield pair, "equal" if equal else "different"
            elif (known := self._cache.get(pair)) is not None:
                yield pair, known
            else:
                unknown.append(pair)
        fresh: dict[Pair, Outcome] = {}
        try:
            for index, outcome in self._verifier.compare(unknown):
                fresh[unknown[index]] = outcome
                yield unknown[index], outcome
        finally:
            self._cache.add(fresh)

    def close(self) -> None:
        """Ends the worker processes; a later call starts new ones."""
        self._verifier.close()


class BothGrader(SemanticGrader):
    """Positive or negative where string comparison and math-verify agree; where they do not, ungradable."""

    verdicts = MappingProxyType({"different": "negative"})
    contradicted: Verdict = "ungradable"


Grader = StringGrader | SemanticGrader
GRADERS = ("string", "semantic", "both")


@contextlib.contextmanager
def open_grader(
    name: str,
    strings: StringGrader | None = None,
    *,
    workers: int | None = None,
    time_limit: float = 5.0,
    cache: Path | None = None,
) -> Iterator[Grader]:
    """Yields the grader of this name and ends its worker processes afterwards; arguments as for `SemanticGrader`."""
    if name == "string":
        yield strings or StringGrader()
        return
    made = {"semantic": SemanticGrader, "both": BothGrader}[name](strings, workers, time_limit, cache)
    with contextlib.closing(made) as grader:
        yield grader
