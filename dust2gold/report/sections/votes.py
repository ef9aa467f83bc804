"""What the sampled answers say: M_rank against ASC's gain, accuracy over the number of samples, adaptive stopping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from dust2gold.core.text import escape
from dust2gold.report.analyses.ranking import Correlation, RankingStudy, ranking_study
from dust2gold.report.analyses.scaling import ORDERS, Point, accuracy_at, accuracy_over_n
from dust2gold.report.analyses.stopping import adaptive_stopping
from dust2gold.report.analyses.votes import Votes, collect_votes
from dust2gold.report.figures import over_n_figure, ranking_figure
from dust2gold.report.markdown import table
from dust2gold.report.sections.section import NONE, Section, Study, percent, short_name, subject_order

_RANKING = (
    "`pairs ordered` is the share of pairs of a right and a wrong sample of one question that M_rank orders right (50 "
    "is chance), `beyond .5` that of samples on the right side of .5, `right samples` that of right ones. Only samples "
    "with an answer count."
)


def votes_section(study: Study) -> Section:
    """The tables of each data set that was voted on."""
    section = Section()
    if not study.vote_groups and any(row.method == "sc" for row in study.rows):
        section.note(
            "Left out: M_rank against ASC, accuracy over the number of samples, adaptive stopping, cases. They need "
            "the samples (scored.jsonl or samples.jsonl) beside the predictions.jsonl of the votes."
        )
    for dataset, vote_groups in study.vote_groups.items():
        ranking = ranking_study(vote_groups)
        if ranking is not None:
            _add_ranking(section, dataset, ranking)
        votes = collect_votes(vote_groups)
        points = accuracy_over_n(votes)
        _add_over_n(section, dataset, points)
        _add_stopping(section, dataset, votes, points)
    return section


def _add_ranking(section: Section, dataset: str, study: RankingStudy) -> None:
    heading = ["subject", "questions", "pairs", "pairs ordered %", "beyond .5 %", "right samples %", "SC %", "ASC %"]
    body = []
    for row in sorted(study.rows, key=lambda row: subject_order(row.subject)):
        shares = (row.pair_accuracy, row.threshold_accuracy, row.right, row.sc, row.asc)
        counts = [str(row.questions), f"{row.pairs:,}"]
        body.append([short_name(row.subject), *counts, *map(percent, shares), f"{row.gain:+.2f}"])
    section.add(f"## {escape(dataset)}: M_rank's accuracy and the gain of ASC over SC")
    section.add(*table([*heading, "gain"], body))
    section.explain(_RANKING)
    if study.pair_accuracy.pearson is not None and study.threshold_accuracy.pearson is not None:
        section.note(
            f"Correlation with the gain over the {study.pair_accuracy.n} subjects that have pairs: of pairs ordered "
            f"{_correlation(study.pair_accuracy)}; of beyond .5 {_correlation(study.threshold_accuracy)}. "
            "So few points settle little: read the interval of r, not r."
        )
    section.count("ranking", [{"dataset": dataset, **asdict(row)} for row in study.rows])
    for measure in ("pair_accuracy", "threshold_accuracy"):
        found = asdict(getattr(study, measure))
        section.count("ranking correlation", [{"dataset": dataset, "of": measure, "with": "gain", **found}])
    if study.pair_accuracy.n:
        section.show(
            "ranking", dataset, ranking_figure(dataset, study), f"M_rank's accuracy and ASC's gain on {dataset}"
        )


def _correlation(found: Correlation) -> str:
    interval = ""
    if found.ci_low is not None and found.ci_high is not None:
        interval = f" (95% interval {found.ci_low:+.2f} to {found.ci_high:+.2f})"
    spearman = NONE if found.spearman is None else f"{found.spearman:+.2f}"
    return f"Pearson's r = {found.pearson or 0.0:+.2f}{interval}, Spearman's ρ = {spearman}"


def _add_over_n(section: Section, dataset: str, points: Sequence[Point]) -> None:
    methods = list(points[0].accuracy)
    body = []
    for point in points:
        tokens = [] if point.tokens is None else [f"{point.tokens:.0f}"]
        body.append([str(point.n), *tokens, *(percent(point.accuracy[method]) for method in methods)])
    cost = ["tokens per question"] if points[0].tokens is not None else []
    section.add(f"## {escape(dataset)}: accuracy over the number of samples")
    section.add(*table(["n", *cost, *(f"{method} %" for method in methods)], body, texts=0))
    section.explain(
        f"expected accuracy with n samples per question: the mean over {ORDERS} random orders of the samples (seed 0), "
        "the same for all methods. Tokens are those that the student writes; for ASC, M_rank reads them once more."
    )
    section.count("accuracy over n", [{"dataset": dataset, **asdict(point)} for point in points])
    section.show("over-n", dataset, over_n_figure(dataset, points), f"Accuracy over the number of samples on {dataset}")


def _add_stopping(section: Section, dataset: str, votes: Votes, points: Sequence[Point]) -> None:
    rows = adaptive_stopping(votes)
    fixed = [accuracy_at(points, row.method, row.samples) for row in rows]
    body = []
    for row, same_cost in zip(rows, fixed, strict=True):
        tokens = NONE if row.tokens is None else f"{row.tokens:.0f}"
        taken = [row.method, f"{row.threshold:.2f}", f"{row.samples:.2f}", f"{100 * row.saved:.1f}", tokens]
        body.append([*taken, percent(row.accuracy), percent(row.full_accuracy), percent(same_cost)])
    heading = ["method", "stops at", "samples", "saved %", "tokens", "accuracy %", "with all %", "fixed n %"]
    section.add(f"## {escape(dataset)}: adaptive stopping")
    section.add(*table(heading, body))
    section.explain(
        "a question stops once its leader beats the runner-up with probability `stops at` (Aggarwal et al. 2023; for "
        "asc scores are votes). `with all` is without stopping; `fixed n` takes for every question what is taken "
        "here on average."
    )
    section.count(
        "adaptive stopping",
        [{"dataset": dataset, **asdict(row), "fixed_n_accuracy": f} for row, f in zip(rows, fixed, strict=True)],
    )
