"""results.json and report.md of a run: the layout of the paper's Table 2, what is behind it, how long it took."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from foundation.errors import InputError
from foundation.files import write_atomically
from pipeline.durations import duration
from pipeline.manifest import Manifests
from pipeline.markdown import escape, table
from pipeline.results import (
    OVERALL,
    Prediction,
    Row,
    compare,
    method_order,
    read_predictions,
    tabulate,
)

BASELINE = "cot-kd"
"""What the paper measures its stages against: a LoRA on the right rationales alone."""

_METHODS = {
    "cot-kd": "trained on the teacher's right rationales, greedy",
    "neg": "M_neg, trained on the wrong rationales, greedy",
    "nat": "M_NAT, right rationales with the frozen M_neg integrated (stage 1), greedy",
    "nce": "M_NCE, one plain LoRA distilled from M_NAT, calibrated by M_neg (stage 2), greedy",
    "sc": "self-consistency: majority vote over the samples",
    "ws": "vote weighted by the model's own length-normalised probability",
    "asc": "adaptive self-consistency: vote weighted by M_rank's score (stage 3)",
}
"""What each method of the paper is, for readers who do not know it."""

# The subjects of MATH in the order and with the short names of the paper's Table 2.
_MATH_SUBJECTS = {
    "countingprobability": "C&P",
    "intermediatealgebra": "InterAlg",
    "numbertheory": "NumTheory",
    "precalculus": "Precalc",
    "prealgebra": "Prealg",
    "geometry": "Geometry",
    "algebra": "Algebra",
}

_COUNTS = ("questions", "samples", "positive", "negative", "ungradable")
_NONE = "-"


@dataclass(frozen=True)
class Report:
    """What `report` wrote.

    Attributes:
        results: The path of results.json.
        markdown: The path of report.md.
        tables: The lines of its tables of accuracy, for the terminal.
    """

    results: Path
    markdown: Path
    tables: list[str]


def report(run: Path) -> Report:
    """Writes results.json (every method, data set and subject) and report.md into a run directory.

    Raises:
        InputError: If there are no predictions, or a file of the run is malformed.
    """
    predictions = read_predictions(run)
    rows = tabulate(predictions)
    if not rows:
        raise InputError("every predictions.jsonl is empty", file=run, remedy="evaluate at least one test question")
    tables = [line for name in _unique(row.dataset for row in rows) for line in _dataset(name, rows, predictions)]
    # The run's own path stays out: the same results give the same file wherever they lie.
    lines = ["# Results", "", *tables, *_reading(rows), *_data(run / "data" / "summary.json"), *_times(run)]
    made = Report(run / "results.json", run / "report.md", tables)
    with write_atomically(made.results) as stream:
        json.dump([asdict(row) for row in rows], stream, indent=1, ensure_ascii=False)
        stream.write("\n")
    with write_atomically(made.markdown) as stream:
        stream.write("\n".join(lines).rstrip() + "\n")
    return made


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _dataset(dataset: str, rows: Sequence[Row], predictions: Sequence[Prediction]) -> list[str]:
    cells = {(row.method, row.subject): row for row in rows if row.dataset == dataset}
    methods = sorted({method for method, _ in cells}, key=method_order)
    subjects = sorted({subject for _, subject in cells if subject != OVERALL}, key=_subject_order)
    return [
        f"## {escape(dataset)}: accuracy in %",
        "",
        *_by_subject(cells, methods, subjects),
        "",
        f"### {escape(dataset)}: all questions",
        "",
        *_overall(cells, methods, lambda method: _against(predictions, dataset, method)),
        "",
    ]


def _subject_order(subject: str) -> tuple[int, str]:
    key = _subject_key(subject)
    return (list(_MATH_SUBJECTS).index(key), "") if key in _MATH_SUBJECTS else (len(_MATH_SUBJECTS), subject)


def _subject_key(subject: str) -> str:
    return re.sub(r"[^a-z]", "", re.sub(r"\band\b", "", subject.lower().replace("_", " ")))


def _by_subject(cells: dict[tuple[str, str], Row], methods: Sequence[str], subjects: Sequence[str]) -> list[str]:
    """Table 2: a row per method, a column per subject, the average over all questions last, the best of each bold."""
    columns = [*subjects, OVERALL]
    best = {column: max(cells[key].accuracy for key in cells if key[1] == column) for column in columns}

    def cell(method: str, column: str) -> str:
        row = cells.get((method, column))
        if row is None:
            return _NONE
        text = f"{100 * row.accuracy:.2f}"
        return f"**{text}**" if row.accuracy == best[column] > 0 else text

    heading = [
        "method",
        *(escape(_MATH_SUBJECTS.get(_subject_key(subject), subject)) for subject in subjects),
        "average",
    ]
    body = [[escape(method), *(cell(method, column) for column in columns)] for method in methods]
    counts = [sorted({row.n for (_, subject), row in cells.items() if subject == column}) for column in columns]
    return table(heading, [*body, ["questions", *(" to ".join(map(str, _ends(count))) for count in counts)]])


def _ends(values: Sequence[int]) -> Sequence[int]:
    """Returns the least and the greatest of sorted values, once if they are the same."""
    return values if len(values) == 1 else [values[0], values[-1]]


def _overall(
    cells: dict[tuple[str, str], Row], methods: Sequence[str], against: Callable[[str], list[str]]
) -> list[str]:
    heading = ["method", "questions", "correct", "accuracy %", "95% interval"]
    compared = len(methods) > 1 and BASELINE in methods
    if compared:
        heading += [f"points over {BASELINE}", "better / worse on"]
    body = []
    for method in methods:
        row = cells[method, OVERALL]
        figures = [str(row.n), f"{row.correct:.6g}" if row.correct % 1 else str(int(row.correct))]
        figures += [f"{100 * row.accuracy:.2f}", f"{100 * row.ci_low:.2f} to {100 * row.ci_high:.2f}"]
        body.append([escape(method), *figures, *(against(method) if compared else [])])
    return table(heading, body)


def _against(predictions: Sequence[Prediction], dataset: str, method: str) -> list[str]:
    if method == BASELINE:
        return [_NONE, _NONE]
    comparison = compare(predictions, dataset, method, BASELINE)
    if not comparison.shared:
        return ["no question in common", _NONE]
    margin = "" if comparison.margin is None else f" ± {comparison.margin:.2f}"
    return [f"{comparison.points:+.2f}{margin}", f"{comparison.better} / {comparison.worse}"]


def _reading(rows: Sequence[Row]) -> list[str]:
    lines = [
        "How to read it: a row is a method, a column a subject; `average` is the share of right answers over all "
        "questions, as in the paper's Table 2, and the best figure of a column is bold. Intervals are Wilson's at 95%; "
        "a tie of votes counts as its share. `points over` is the mean difference per question with its paired 95% "
        "interval: where that holds 0, the questions do not tell the two methods apart. One training run each: the "
        "spread over seeds is not in it.",
        "",
    ]
    lines += [f"- {name}: {_METHODS[name]}" for name in _unique(row.method for row in rows) if name in _METHODS]
    return [*lines, ""]


def _data(path: Path) -> list[str]:
    """The teacher samples behind the training, from what `prepare` counted."""
    if not path.is_file():
        return []
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        groups = {**summary["by_subject"], "all": summary}
        body = [[escape(name), *(f"{int(counts[key]):,}" for key in _COUNTS)] for name, counts in groups.items()]
    except (ValueError, KeyError, TypeError) as error:
        remedy = "write it again with `prepare`"
        raise InputError(f"not what `prepare` writes ({error!r})", file=path, remedy=remedy) from error
    return ["## Training data", "", *table(["subject", *_COUNTS], body), ""]


def _times(run: Path) -> list[str]:
    """How long each stage took, the reporting itself excepted: its time is not known while it writes."""
    done = [
        manifest
        for manifest in Manifests(run).read_all()
        if manifest.state == "done" and all(record.command[0] != "report" for record in manifest.commands)
    ]
    if not done:
        return []
    body = [[escape(manifest.stage), escape(manifest.about), duration(manifest.seconds)] for manifest in done]
    body.append(["total", "", duration(sum(manifest.seconds for manifest in done))])
    return ["## Time", "", *table(["stage", "what it does", "time"], body, texts=2), ""]
