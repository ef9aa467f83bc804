"""The samples of a question as a vote group: answers pooled by value, with what votes may be weighted by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.components.grading.answers import canonical
from datamodules.components.records.records import Question, Rationale, question_of, read_rationales
from dust2gold.core.errors import InputError

NO_ANSWER = -1
"""Class of a sample that states no answer: it abstains."""
NO_GOLD = -2
"""Class of the gold answer where no sample has it."""


@dataclass(frozen=True, slots=True)
class VoteGroup:
    """The votes on one question."""

    question: Question
    samples: Sequence[Rationale]  # N, by their number
    answers: Sequence[int]  # class of each sample's answer, −1 for none
    gold: int  # class of the gold answer, −2 if no sample has it
    texts: Sequence[str]  # an answer of each class, as written
    logprob_mean: Sequence[float] | None  # N log-probabilities per token, or None if the samples have none
    score: Sequence[float] | None  # N scores, or None if the samples have none


def read_samples(files: Sequence[Path]) -> list[Rationale]:
    """Reads samples from all of the files.

    Raises:
        InputError: If a file is missing or damaged, a sample comes twice, or there is none at all.
    """
    samples: dict[str, Rationale] = {}
    for file in files:
        for sample in read_rationales(file):
            if sample.id in samples:
                problem = f"sample '{sample.id}' comes twice"
                raise InputError(problem, file=file, field="id", remedy="give each file once")
            samples[sample.id] = sample
    if not samples:
        names = ", ".join(map(str, files))
        raise InputError("no samples to vote with", file=names, field="data.samples", remedy="sample with `predict`")
    return list(samples.values())


def make_vote_groups(
    samples: Sequence[Rationale],
    questions: Iterable[Question] | None = None,
    samples_per_question: int | None = None,
    questions_file: Path | None = None,
) -> list[VoteGroup]:
    """Groups samples by question, in the order of `questions` (default: those that have samples); pools their answers.

    Args:
        samples: The samples, in any order.
        questions: All questions; one may have no samples.
        samples_per_question: Use only the first so many samples of each question, by their number.
        questions_file: Where the questions stand, for the error.

    Raises:
        InputError: If a sample belongs to none of the questions, its id does not end in its number, or only some
            samples have what a method weighs by.
    """
    if questions is None:
        questions = {sample.question_id: question_of(sample) for sample in samples}.values()
    by_id = {question.id: question for question in questions}
    weighed_by = {name: _all_have(samples, name) for name in ("logprob", "score")}
    grouped: dict[str, list[Rationale]] = {name: [] for name in by_id}
    for sample in samples:
        if sample.question_id not in grouped:
            problem, remedy = "belongs to none of its questions", "give --data.questions the file that was sampled"
            raise InputError(f"sample '{sample.id}' {problem}", file=questions_file, remedy=remedy)
        grouped[sample.question_id].append(sample)
    return [
        _vote_group(question, sorted(grouped[name], key=_number)[:samples_per_question], **weighed_by)
        for name, question in by_id.items()
    ]


def _vote_group(question: Question, samples: list[Rationale], logprob: bool, score: bool) -> VoteGroup:
    """Pools the answers; one that was graded as right is of the gold answer's value, however it is written."""
    right = {canonical(s.answer) for s in samples if s.verdict == "positive" and s.answer}
    gold = canonical(question.gold)

    def value(answer: str) -> str:
        own = canonical(answer)
        return gold if own in right else own

    classes: dict[str, int] = {}  # by value, numbered as they first appear
    answers: list[int] = []
    texts: list[str] = []
    for sample in samples:
        if sample.answer is None or not sample.answer.strip():
            answers.append(NO_ANSWER)
            continue
        answers.append(classes.setdefault(value(sample.answer), len(classes)))
        if answers[-1] == len(texts):
            texts.append(sample.answer)
    return VoteGroup(
        question=question,
        samples=samples,
        answers=answers,
        gold=classes.get(gold, NO_GOLD) if question.gold.strip() else NO_GOLD,  # where none is given nothing equals it
        texts=texts,
        logprob_mean=[(s.logprob or 0.0) / (s.tokens or 1) for s in samples] if logprob else None,
        score=[s.score or 0.0 for s in samples] if score else None,
    )


def _all_have(samples: Sequence[Rationale], field: str) -> bool:
    """Whether all samples have a value in `field`; an error if only some do, as their votes could not be compared."""
    missing = [sample for sample in samples if getattr(sample, field) is None]
    if missing and len(missing) < len(samples):
        problem = f"{len(missing)} of {len(samples)} samples have none, e.g. '{missing[0].id}'"
        raise InputError(problem, field=field, remedy="give samples that all have it, or none")
    return not missing


def _number(sample: Rationale) -> int:
    """The k of "<question_id>/<k>"."""
    k = sample.id.rpartition("/")[2]
    if not k.isdecimal():
        raise InputError(f"'{sample.id}' does not end in a sample's number", field="id", remedy="<question_id>/<k>")
    return int(k)
