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

from dust2gold.core.text import escape
from dust2gold.report.analyses.predictions import OVERALL, Prediction
from dust2gold.report.section import NONE, Section, Study, short_name, subject_order

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


def add_overlap(section: Section, study: Study) -> None:
    """Adds the tables of each data set on which at least one of the pairs was tested."""
    found = overlaps(study.predictions)
    for dataset in study.datasets:
        own = [overlap for overlap in found if overlap.dataset == dataset]
        if not own:
            continue
        pairs = list(dict.fromkeys((overlap.first, overlap.second) for overlap in own))
        first, second = pairs[0]
        section.add(f"## {escape(dataset)}: questions that two models solve")
        table_1 = []
        for o in sorted(own, key=lambda o: subject_order(o.subject)):
            if (o.first, o.second) == pairs[0]:
                counts = [str(o.solved_first), str(o.solved_second), str(o.both)]
                table_1.append([short_name(o.subject), *counts, f"{o.by_chance:.1f}", _iou(o)])
        section.add_table(
            ["subject", first, second, "both", "by chance", "IoU"],
            table_1,
            f"questions that `{first}` solves, that `{second}` solves, and both; IoU is both / either, as in the "
            "paper's Table 1. `by chance` is how many both would solve if the one knew nothing of the other.",
        )
        if len(pairs) > 1:
            cells = {
                (o.subject, o.first, o.second): f"{_iou(o)} ({o.both} of {o.solved_first + o.solved_second - o.both})"
                for o in own
            }
            subjects = sorted({o.subject for o in own}, key=subject_order)
            section.add_table(
                ["subject", *(f"{first}, {second}" for first, second in pairs)],
                [[short_name(s), *(cells.get((s, *pair), NONE) for pair in pairs)] for s in subjects],
                "IoU of each pair by subject, and in brackets how many questions both solve of those that either "
                "solves. The nearer to 1, the more two models solve the same questions.",
            )
    section.add_numbers("overlap", found)


def _iou(overlap: Overlap) -> str:
    return NONE if overlap.iou is None else f"{overlap.iou:.3f}"
