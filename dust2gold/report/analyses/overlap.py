"""Which test questions two models both solve (the paper's Table 1).

With S_a and S_b the sets of questions that two methods solve, IoU = |S_a ∩ S_b| / |S_a ∪ S_b|. The paper finds .074 for
CoT KD and M_neg, and takes it for a sign that right and wrong rationales teach different things. A small IoU alone does
not show that: two weak models share little even where they solve questions independently of each other, namely
|S_a|·|S_b| / n of n questions. That number is given beside the intersection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dust2gold.report.analyses.predictions import OVERALL, Prediction

PAIRS = (("cot-kd", "neg"), ("nat", "neg"), ("nce", "neg"), ("nat", "cot-kd"), ("nce", "nat"))
"""The pairs of methods that the report compares; the first is the paper's Table 1, the second its text's."""


@dataclass(frozen=True)
class Overlap:
    """Which questions two methods solve.

    Attributes:
        dataset: The data set.
        subject: The subject, "all" for the whole data set.
        first: One method.
        second: The other one.
        n: Questions that both answered.
        solved_first: How many of them the first solves.
        solved_second: How many the second solves.
        both: How many both solve.
        by_chance: How many both would solve on average if they solved independently: solved_first·solved_second / n.
        iou: both / (solved by either); None where neither solves any.
    """

    dataset: str
    subject: str
    first: str
    second: str
    n: int
    solved_first: int
    solved_second: int
    both: int
    by_chance: float
    iou: float | None


def overlaps(predictions: Iterable[Prediction], pairs: Sequence[tuple[str, str]] = PAIRS) -> list[Overlap]:
    """Counts, for each data set and pair of methods, by subject and over all ("all" last).

    A question counts as solved where `correct` is 1: greedy answers are either right or wrong, and a tied vote solves
    nothing. A pair of which one method is missing is left out.
    """
    answers: dict[tuple[str, str], dict[str, Prediction]] = defaultdict(dict)
    for prediction in predictions:
        answers[prediction.dataset, prediction.method][prediction.question_id] = prediction
    found = []
    for dataset in sorted({dataset for dataset, _ in answers}):
        for first, second in pairs:
            a, b = answers.get((dataset, first), {}), answers.get((dataset, second), {})
            shared = [(a[question], b[question]) for question in a if question in b]
            subjects = sorted({one.subject for one, _ in shared if one.subject})
            for subject in [*subjects, OVERALL] if shared else []:
                chosen = [(x, y) for x, y in shared if subject in (x.subject, OVERALL)]
                found.append(_overlap(dataset, subject, first, second, chosen))
    return found


def _overlap(
    dataset: str, subject: str, first: str, second: str, answers: Sequence[tuple[Prediction, Prediction]]
) -> Overlap:
    ours = {x.question_id for x, _ in answers if x.correct == 1}
    theirs = {y.question_id for _, y in answers if y.correct == 1}
    n, both, either = len(answers), len(ours & theirs), len(ours | theirs)
    chance = len(ours) * len(theirs) / n
    return Overlap(
        dataset, subject, first, second, n, len(ours), len(theirs), both, chance, both / either if either else None
    )
