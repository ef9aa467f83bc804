"""Accuracy by subject (the paper's Table 2), by level, over all questions with intervals and tests, by test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from dust2gold.core.text import escape
from dust2gold.report.analyses.accuracy import Row, tabulate_levels
from dust2gold.report.analyses.methods import BASELINE, COMPARISONS, descriptions, method_order
from dust2gold.report.analyses.paired import Comparison, compare, compare_pairs
from dust2gold.report.analyses.predictions import OVERALL
from dust2gold.report.figures import intervals_figure
from dust2gold.report.section import NONE, Section, Study, p_value, short_name, subject_order

_Table = tuple[list[str], list[list[str]]]  # heading, body

_BY_SUBJECT = (
    "a row is a method, a column a subject; `average` is the share of right answers over all questions, as in the "
    "paper's Table 2. The best figure of a column is bold; whether it is better than another, the intervals below say."
)
_BY_LEVEL = (
    "the same by the data set's own levels of difficulty, the easiest first; `average` is over all questions. "
    "The best figure of a column is bold."
)
_OVERALL = "intervals are Wilson's at 95%; a tie of votes counts as its share."
_COMPARED = (
    "`points` is the mean difference per question with its paired 95% interval. `p` is the exact two-sided test of "
    "this mean over all flips of the questions' signs (McNemar's where answers are right or wrong), uncorrected for "
    "many tests. `better / worse on` counts questions: there a tie that gives an eighth of the right answer counts "
    "like a whole one, in all other figures as an eighth."
)
_COMPARISONS = "what the paper claims of its stages: a method against another, on the questions both answered."
_BASELINE, _PAIRS = f"against {BASELINE}", "comparisons"  # their names in analyses.json
_GENERALISATION = (
    "accuracy in % on all questions of each test set: a column is a test set, a row a method, the same model in all. "
    "`-` stands where a method was not tested; the best figure of a column is bold."
)


def add_accuracy(section: Section, study: Study) -> None:
    """Adds the tables of every data set, and what each method is."""
    levels = tabulate_levels(study.predictions)
    for dataset in study.datasets:
        rows = [row for row in study.rows if row.dataset == dataset]
        section.add(f"## {escape(dataset)}: accuracy in %")
        section.add_table(*_grid(rows, [short_name(subject) for subject in _columns(rows)]), _BY_SUBJECT)
        own = [row for row in levels if row.dataset == dataset]
        if len(names := _columns(own)) > 1:
            section.add(f"### {escape(dataset)}: by level")
            section.add_table(*_grid(own, [escape(level) for level in names]), _BY_LEVEL)
            records = [asdict(row) for row in own if row.subject != OVERALL]
            section.numbers.setdefault("levels", []).extend({"level": r.pop("subject"), **r} for r in records)
        _add_overall(section, study, dataset, [row for row in rows if row.subject == OVERALL])
        _add_comparisons(section, study, dataset)
    if {_BASELINE, _PAIRS} & section.numbers.keys():
        section.note(_COMPARED)
    section.add(*descriptions(row.method for row in study.rows))


def add_generalisation(section: Section, study: Study) -> None:
    """Adds methods against test sets, where there is more than one."""
    if len(study.datasets) > 1:
        rows = [row for row in study.rows if row.subject == OVERALL]
        section.add("## Generalisation: accuracy in % by test set")
        cells = {(row.method, row.dataset): row for row in rows}
        names = [escape(name) for name in study.datasets]
        section.add_table(*_best_marked(cells, study.datasets, names), _GENERALISATION)
        section.add_numbers("generalisation", rows)


def _columns(rows: Sequence[Row]) -> list[str]:
    return sorted({row.subject for row in rows if row.subject != OVERALL}, key=subject_order)


def _grid(rows: Sequence[Row], names: Sequence[str]) -> _Table:
    """A row per method, a column per subject or level, the average over all questions last."""
    cells = {(row.method, row.subject): row for row in rows}
    return _best_marked(cells, [*_columns(rows), OVERALL], [*names, "average"])


def _best_marked(cells: dict[tuple[str, str], Row], columns: Sequence[str], names: Sequence[str]) -> _Table:
    """Accuracy in %, the best of each column bold, the number of questions in the last row."""
    methods = sorted({method for method, _ in cells}, key=method_order)
    best = {column: max(row.accuracy for (_, own), row in cells.items() if own == column) for column in columns}

    def cell(method: str, column: str) -> str:
        row = cells.get((method, column))
        if row is None:
            return NONE
        text = f"{100 * row.accuracy:.2f}"
        return f"**{text}**" if row.accuracy == best[column] > 0 else text

    body = [[escape(method), *(cell(method, column) for column in columns)] for method in methods]
    counts = [{row.n for (_, own), row in cells.items() if own == column} for column in columns]
    ends = [" to ".join(map(str, sorted({min(count), max(count)}))) for count in counts]
    return ["method", *names], [*body, ["questions", *ends]]


def _add_overall(section: Section, study: Study, dataset: str, rows: Sequence[Row]) -> None:
    against = {
        row.method: compare(study.predictions, dataset, row.method, BASELINE)
        for row in rows
        if row.method != BASELINE and any(other.method == BASELINE for other in rows)
    }
    heading = ["method", "questions", "correct", "accuracy %", "95% interval"]
    if against:
        heading += [f"points over {BASELINE}", "better / worse on", "p"]
    body = []
    for row in rows:
        figures = [str(row.n), f"{row.correct:.6g}" if row.correct % 1 else str(int(row.correct))]
        figures += [f"{100 * row.accuracy:.2f}", f"{100 * row.ci_low:.2f} to {100 * row.ci_high:.2f}"]
        body.append([escape(row.method), *figures, *(_compared(against.get(row.method)) if against else [])])
    section.add(f"### {escape(dataset)}: all questions")
    section.add_table(heading, body, _OVERALL)
    for method, found in against.items():
        section.add_numbers(_BASELINE, [found], dataset=dataset, method=method)
    ends = [(row.method, row.accuracy, row.ci_low, row.ci_high) for row in rows]
    figure = intervals_figure(f"{dataset}: accuracy with 95% intervals", ends, BASELINE)
    section.add_figure("accuracy", dataset, figure, f"Accuracy on {dataset} by method")


def _add_comparisons(section: Section, study: Study, dataset: str) -> None:
    body = []
    for (method, baseline), found in compare_pairs(study.predictions, dataset, COMPARISONS).items():
        body.append([method, baseline, str(found.shared), *_compared(found)])
        section.add_numbers(_PAIRS, [found], dataset=dataset, method=method, baseline=baseline)
    if body:
        section.add(f"### {escape(dataset)}: the paper's comparisons")
        heading = ["method", "against", "questions", "points", "better / worse on", "p"]
        section.add_table(heading, body, _COMPARISONS, texts=2)


def _compared(found: Comparison | None) -> list[str]:
    if found is None or not found.shared:
        return ["no question in common" if found else NONE, NONE, NONE]
    margin = "" if found.margin is None else f" ± {found.margin:.2f}"
    return [f"{found.points:+.2f}{margin}", f"{found.better} / {found.worse}", p_value(found.p_value)]
