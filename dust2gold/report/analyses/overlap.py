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
    """How many of the n questions that two methods both answered each of them solves, and both.

    `by_chance` is how many both would solve if they solved independently, solved_first·solved_second / n; `iou` is both
    over those solved by either, None where neither solves any. `subject` is "all" for the whole data set.
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
                chosen = [(x.correct == 1, y.correct == 1) for x, y in shared if subject in (x.subject, OVERALL)]
                n, solved, other = len(chosen), sum(x for x, _ in chosen), sum(y for _, y in chosen)
                both, either = sum(x and y for x, y in chosen), sum(x or y for x, y in chosen)
                figures = (n, solved, other, both, solved * other / n, both / either if either else None)
                found.append(Overlap(dataset, subject, first, second, *figures))
    return found
