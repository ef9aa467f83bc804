"""What a run's figures say about the wrong answers, by rules and in words: did they help, over what, how surely.

NAT is compared with the first of `CONTROLS` that was run, then with MIX, which is plain training on everything. The
numbers are those of the tables: `paired.py` for one run, `seeds.py` for several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from dust2gold.core.text import escape
from dust2gold.report.analyses.paired import compare_pairs
from dust2gold.report.analyses.predictions import OVERALL
from dust2gold.report.analyses.seeds import difference, over_seeds
from dust2gold.report.section import Section, Study
from dust2gold.report.shown import LIMITS

NAT, MIX = "nat", "mix"
CONTROLS = {
    "nat-shuffled": "the same training, its M_neg taught by shuffled verdicts",
    "nat-no-negatives": "the same training with CoT KD in the place of M_neg",
    "cot-kd-long": "right answers alone, with as many steps as M_neg and NAT together",
    "cot-kd": "right answers alone, without M_neg's steps",
}
"""What NAT is compared with: the first that there is. The first two differ from it in the wrong answers alone."""
_TRUE_CONTROLS = ("nat-shuffled", "nat-no-negatives")
RECIPES = {
    "cot-kd": "CoT KD: a LoRA on the right answers",
    "cot-kd-long": "CoT KD with twice the steps",
    MIX: "MIX: a LoRA on right and wrong answers alike",
    NAT: "NAT: a LoRA beside the frozen M_neg, which is trained before; it cannot be merged",
    "nce": "NCE: a LoRA distilled from NAT, with samples of NAT",
}
"""What a user may take, the least work first."""


class Gap(NamedTuple):
    """A difference in points, half the width of its 95% interval where there is one, and over how many seeds."""

    points: float
    margin: float | None
    seeds: int = 1


@dataclass(frozen=True)
class Evidence:
    """What was measured on a data set in the runs of some seeds, often one; `gap` of a method and a baseline."""

    dataset: str
    questions: int
    seeds: int
    accuracies: Mapping[str, float]
    gap: Callable[[str, str], Gap | None]


@dataclass(frozen=True)
class Finding:
    """The answer to a question: "yes", "no", "not shown" (the interval includes 0) or "not tested".

    `negatives` and `mix` ask whether `method` beats `baseline`; `take` names the best method and the next one.
    """

    question: str
    answer: str
    dataset: str
    method: str
    baseline: str | None
    points: float | None = None
    margin: float | None = None
    seeds: int | None = None


def evidence_of(runs: Mapping[int, Study]) -> Evidence:
    """The evidence of one run, or of those of several seeds, on the data set on which most methods were tested."""
    first = next(iter(runs.values()))
    dataset = first.datasets[0]

    def gap(method: str, baseline: str) -> Gap | None:
        if len(runs) > 1:
            spread = difference([run.predictions for run in runs.values()], dataset, (method, baseline))
            return None if spread is None else Gap(spread.points.mean, spread.margin, spread.points.seeds)
        found = compare_pairs(first.predictions, dataset, [(method, baseline)]).get((method, baseline))
        return None if found is None else Gap(found.points, found.margin)

    questions = max(row.n for row in first.rows if row.dataset == dataset)
    rows = over_seeds({seed: run.rows for seed, run in runs.items()})
    overall = {row.method: row.accuracy.mean for row in rows if (row.dataset, row.subject) == (dataset, OVERALL)}
    return Evidence(dataset, questions, len(runs), overall, gap)


def did_negatives_help(evidence: Evidence) -> Finding:
    """NAT against the first of its controls."""
    found = (_compared(evidence, "negatives", NAT, control) for control in CONTROLS)
    first = next((each for each in found if each.points is not None), _compared(evidence, "negatives", NAT, None))
    return first if first.baseline in _TRUE_CONTROLS else replace(first, answer="not tested")


def does_nat_beat_mix(evidence: Evidence) -> Finding:
    """NAT against plain training on everything."""
    return _compared(evidence, "mix", NAT, MIX)


def what_to_take(evidence: Evidence) -> Finding | None:
    """The recipe with the highest accuracy, of equal ones that of the least work; None where none was tested."""
    ranked = sorted((name for name in RECIPES if name in evidence.accuracies), key=lambda n: -evidence.accuracies[n])
    return _compared(evidence, "take", ranked[0], ranked[1] if ranked[1:] else None) if ranked else None


def _compared(evidence: Evidence, question: str, method: str, baseline: str | None) -> Finding:
    gap = None if baseline is None else evidence.gap(method, baseline)
    if gap is None:
        return Finding(question, "not tested", evidence.dataset, method, baseline)
    answer = "not shown" if _holds_0(gap.points, gap.margin) else "yes" if gap.points > 0 else "no"
    return Finding(question, answer, evidence.dataset, method, baseline, *gap)


def _holds_0(points: float, margin: float | None) -> bool:
    """Whether the interval includes 0, or there is none."""
    return margin is None or abs(points) <= margin


def add_verdict(section: Section, evidence: Evidence) -> None:
    """Adds the section; if MIX is best, that comes first."""
    helped, mix, take = did_negatives_help(evidence), does_nat_beat_mix(evidence), what_to_take(evidence)
    paragraphs = [_of_negatives(evidence, helped), _of_mix(mix)]
    paragraphs.insert(0 if take is not None and take.method == MIX else 2, _of_taking(evidence, take))
    section.add("## Verdict")
    section.note(f"By rules, from the figures on {escape(evidence.dataset)} ({evidence.questions:,} test questions):")
    for paragraph in paragraphs:
        section.note(f"- {paragraph}")
    section.lines.append(LIMITS)
    section.note(_limits(evidence))
    section.add_numbers("verdict", [found for found in (helped, mix, take) if found is not None])


def _of_negatives(evidence: Evidence, found: Finding) -> str:
    asked = "**Did the wrong answers help?"
    if NAT not in evidence.accuracies:
        return f"{asked} Not tested.** There is no row `nat`."
    if found.baseline is None:
        return f"{asked} Not tested.** `nat` has nothing to be compared with: run `nat-no-negatives` or `nat-shuffled`."
    said = f"{_difference(found)} ({CONTROLS[found.baseline]}){_interval(found)}."
    if found.baseline not in _TRUE_CONTROLS:
        more = "Between these two more differs than the wrong answers."
        return f"{asked} Not tested.** It takes the row `nat-shuffled` or `nat-no-negatives`. {said} {more}"
    answers = {"yes": "Yes.", "no": "No, they harmed.", "not shown": "Not shown."}
    return f"{asked} {answers[found.answer]}** {said}"


def _of_mix(found: Finding) -> str:
    asked = "**Does NAT beat MIX, plain training on right and wrong answers alike?"
    if found.points is None:
        return f"{asked} Not tested.** It takes the rows `nat` and `mix`."
    answers = {"yes": "Yes.", "no": "No, MIX is better.", "not shown": "Not shown."}
    return f"{asked} {answers[found.answer]}** {_difference(found)}{_interval(found)}. The steps of each: Set-up."


def _of_taking(evidence: Evidence, take: Finding | None) -> str:
    if take is None:
        return f"**What to take? Not tested.** It takes one of the rows {_names(RECIPES)}."
    best, tested = take.method, [name for name in RECIPES if name in evidence.accuracies]
    said = f"**What to take: `{best}`.** {RECIPES[best]}. It has {100 * evidence.accuracies[best]:.2f}% right"
    if take.points is None:
        return f"{said}; no other of {_names(RECIPES)} was tested."
    said = f"{said}, the most of {_names(tested)}: {_difference(take)}{_interval(take)}."
    less = [name for name in tested[: tested.index(best)] if _compared(evidence, "", best, name).answer == "not shown"]
    return f"{said} Less work, and not shown to be worse: {_names(less)}." if less else said


def _limits(evidence: Evidence) -> str:
    about = (
        f"**What {evidence.seeds} seeds can and cannot tell.** Intervals are Student's over the seeds, wide for two or "
        "three: how much another training would change. The data and the test questions are the same in all."
    )
    if evidence.seeds == 1:
        about = (
            "**What one run can and cannot tell.** Its intervals are about the choice of test questions. How much "
            "another seed or machine would change is not in them; often it is several points, so that one run cannot "
            "settle a small difference. `run --seeds 0,1,2` measures it."
        )
    return f"{about} Other data, teachers and students are not in it. Several seeds beside placebos: docs/study.md."


def _difference(found: Finding) -> str:
    points = found.points or 0.0
    more = "more" if points >= 0 else "fewer"
    return f"`{found.method}` answers {abs(points):.2f} points {more} of the questions right than `{found.baseline}`"


def _interval(found: Finding) -> str:
    where = "one run of one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    if found.points is None or found.margin is None:
        return f", without an interval; {where}"
    ends = f"{found.points - found.margin:+.2f} to {found.points + found.margin:+.2f}"
    zero = "includes 0" if _holds_0(found.points, found.margin) else "excludes 0"
    return f", 95% interval {ends}, which {zero}; {where}"


def _names(methods: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in methods)
