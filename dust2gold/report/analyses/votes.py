"""The sampled answers that a run voted with, as records and as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.components.grading.vote_groups import NO_ANSWER, VoteGroup, make_vote_groups, read_samples
from datamodules.components.records.records import Question, question_of
from dust2gold.core.errors import InputError
from dust2gold.core.jsonl import read_json_lines
from lightning_modules.components.voting.votes import vote_weights

SAMPLE_FILES = ("scored.jsonl", "samples.jsonl")
"""The samples beside the predictions that were made from them: with M_rank's scores, or without."""


def read_vote_groups(files: Sequence[Path]) -> dict[str, list[VoteGroup]]:
    """By data set, the questions and samples that the predictions (method `sc`) say were voted on.

    They are read from the samples beside each predictions.jsonl; where those are gone there are no groups.
    """
    found: dict[str, list[VoteGroup]] = {}
    for file in files:
        voted = _voted(file)
        path = next((path for name in SAMPLE_FILES if (path := file.with_name(name)).is_file()), None)
        samples = [sample for sample in read_samples([path]) if sample.question_id in voted] if path and voted else []
        if not samples:
            continue
        questions = {sample.question_id: question_of(sample) for sample in samples}
        silent = []  # of a question without samples its row is all that is known
        for name, row in voted.items():
            if name not in questions:
                gold, *about = (str(row.get(field) or "") for field in ("gold", "subject", "level", "dataset"))
                silent.append(Question(name, "", gold, "", *about))
        most = max((row["samples"] for row in voted.values() if "samples" in row), default=None)
        for group in make_vote_groups(samples, [*questions.values(), *silent], most):
            found.setdefault(group.question.source, []).append(group)
    return dict(sorted(found.items()))


def _voted(file: Path) -> dict[str, dict[str, Any]]:
    """The rows of the plain vote by question."""
    voted: dict[str, dict[str, Any]] = {}
    for line, row in read_json_lines(file):
        if row.get("method") != "sc":
            continue
        count = row.get("samples", 0)
        if not isinstance(count, int) or count < 0:
            raise InputError(f"{count!r} is no number of samples", file=file, line=line, field="samples")
        voted[str(row.get("question_id"))] = row
    return voted


@dataclass(frozen=True)
class Votes:
    """The vote groups of Q questions with at most N samples each.

    Attributes:
        answers: [Q, N] int64 class of each sample's answer, −1 where it states none and at padding.
        gold: [Q] int64 class of the gold answer, −2 where no sample has it.
        present: [Q, N] bool, false at padding.
        tokens: [Q, N] int64 generated tokens, 0 at padding; None where a sample does not say.
        score: [Q, N] float64 M_rank's score, 0 at padding; None where samples have none.
        weights: [Q, N] float64 weights of each method that the samples allow.
    """

    answers: Tensor
    gold: Tensor
    present: Tensor
    tokens: Tensor | None
    score: Tensor | None
    weights: dict[str, Tensor]

    @property
    def right(self) -> Tensor:
        """[Q, N] bool: whether a sample gives the gold answer, as the vote pools it."""
        return (self.answers == self.gold[:, None]) & self.present


def collect_votes(vote_groups: Sequence[VoteGroup]) -> Votes:
    """Pads vote groups to tensors."""
    width = max(len(group.answers) for group in vote_groups)

    def padded(rows: Sequence[Sequence[float] | None], filler: float = 0) -> Tensor | None:
        known = [[*row, *[filler] * (width - len(row))] for row in rows if row is not None]  # [Q, N]
        return torch.tensor(known, dtype=torch.float64) if len(known) == len(rows) else None

    counts = [[sample.tokens for sample in group.samples] for group in vote_groups]
    tokens = padded([None if None in row else [count or 0 for count in row] for row in counts])
    score = padded([group.score for group in vote_groups])
    answers = torch.tensor([[*g.answers, *[NO_ANSWER] * (width - len(g.answers))] for g in vote_groups])
    return Votes(
        answers=answers,
        gold=torch.tensor([group.gold for group in vote_groups]),
        present=torch.tensor([[k < len(group.answers) for k in range(width)] for group in vote_groups]),
        tokens=None if tokens is None else tokens.long(),
        score=score,
        weights=vote_weights(answers, padded([group.logprob_mean for group in vote_groups]), score),
    )
