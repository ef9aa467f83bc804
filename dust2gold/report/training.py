"""What the models were trained on, which test questions are among it, and how long it took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from datamodules.components.records.records import VERDICTS
from dust2gold.core.text import escape
from dust2gold.report.analyses.accuracy import tabulate
from dust2gold.report.analyses.predictions import OVERALL, Prediction
from dust2gold.report.section import NONE, Section, Study, percent, reading, shortened
from dust2gold.run.leaks import Leak, find_leaks
from dust2gold.run.record import Records, duration

_COUNTS = ("questions", "samples", *VERDICTS)
_LONGEST = 60  # characters of an answer that is shown


def add_leaks(section: Section, run: Path, predictions: Sequence[Prediction] = ()) -> None:
    """Adds which test questions stand in the training set, and the accuracies on the others."""
    leaks = find_leaks(run)
    section.add_numbers("leaks", leaks)
    if not leaks:
        return
    section.add("## Test questions that stand in the training set")
    section.add_table(
        ["test set", "the first of them", "questions", "in the training set", "but for signs"],
        [[escape(k.dataset), escape(k.first) or NONE, *_counted(k)] for k in leaks],
        "questions that are equal but for case, white space and LaTeX's layout; `but for signs`: more that differ from "
        "one in signs and punctuation alone. No paraphrases. The tables of accuracy are over all questions.",
        texts=2,
    )
    body = []
    for leak in leaks:
        shared = {*leak.shared, *leak.alike}
        answers = [answer for answer in predictions if answer.dataset == leak.dataset]
        clean = [answer for answer in answers if answer.question_id not in shared]
        others = {row.method: row for row in tabulate(clean) if row.subject == OVERALL}
        for row in tabulate(answers) if len(clean) < len(answers) else []:
            if row.subject == OVERALL and (other := others.get(row.method)):
                figures = [str(row.n), percent(row.accuracy), str(other.n), percent(other.accuracy)]
                body.append([escape(leak.dataset), escape(row.method), *figures])
    if body:
        heading = ["test set", "method", "questions", "accuracy %", "without them", "accuracy %"]
        section.add_table(heading, body, "accuracy over all questions, and without those above.", texts=2)


def _counted(leak: Leak) -> list[str]:
    return [f"{number:,}" for number in (leak.questions, len(leak.shared), len(leak.alike))]


def add_data(section: Section, study: Study) -> None:
    """Adds the teacher samples behind the training, from what `prepare` counted."""
    path = study.run / "data" / "summary.json"
    if path.is_file():
        section.add("## Training data")
        with reading(path):
            summary = json.loads(path.read_text(encoding="utf-8"))
            groups = {**summary["by_subject"], "all": summary}
            body = [[escape(name), *(f"{int(counts[key]):,}" for key in _COUNTS)] for name, counts in groups.items()]
            compared = [
                [escape(given), *(f"{int(row[verdict]):,}" for verdict in VERDICTS)]
                for given, row in summary.get("compared", {}).items()
            ]
            cases = [[shortened(str(cell), _LONGEST) for cell in case] for case in summary.get("differing", [])]
        section.add_table(
            ["subject", *_COUNTS],
            body,
            "questions the teacher answered, and its samples: `positive` ones (D_pos) reach the gold answer, "
            "`negative` ones (D_neg) another or none, `ungradable` ones train nothing.",
        )
        if compared:
            counts = {
                "given": "The given ones count.",
                "graded": "Ours count.",
                "both": "Where they differ, none counts.",
            }
            section.add_table(
                ["given", *(f"graded {verdict}" for verdict in VERDICTS)],
                compared,
                f"samples by the data set's own verdict and by ours. {counts.get(str(summary.get('verdicts')), '')}",
            )
        if cases:
            section.add_table(["id", "answer", "gold", "given", "graded"], cases, "some of those that differ.", texts=5)


def add_time(section: Section, study: Study) -> None:
    """Adds how long each stage took, the reporting itself excepted: its time is not known while it writes."""
    done = [
        record
        for record in Records(study.run).read_all()
        if record.state == "done" and not any(command.command.startswith("report ") for command in record.commands)
    ]
    if done:
        body = [[escape(record.stage), escape(record.about), duration(record.seconds)] for record in done]
        body.append(["total", "", duration(sum(record.seconds for record in done))])
        section.add("## Time")
        explained = "time of each stage's commands on the machine that ran them, all attempts together; writing this "
        section.add_table(["stage", "what it does", "time"], body, f"{explained}report is not in it.", texts=2)
