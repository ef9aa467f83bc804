"""What the models were trained on and how long it took."""

from __future__ import annotations

import json

from dust2gold.core.text import escape
from dust2gold.report.section import Section, Study, reading
from dust2gold.run.record import Records, duration

_COUNTS = ("questions", "samples", "positive", "negative", "ungradable")


def add_data(section: Section, study: Study) -> None:
    """Adds the teacher samples behind the training, from what `prepare` counted."""
    path = study.run / "data" / "summary.json"
    if path.is_file():
        section.add("## Training data")
        with reading(path):
            summary = json.loads(path.read_text(encoding="utf-8"))
            groups = {**summary["by_subject"], "all": summary}
            body = [[escape(name), *(f"{int(counts[key]):,}" for key in _COUNTS)] for name, counts in groups.items()]
        section.add_table(
            ["subject", *_COUNTS],
            body,
            "questions the teacher answered, and its samples: `positive` ones (D_pos) reach the gold answer, "
            "`negative` ones (D_neg) another or none, `ungradable` ones train nothing.",
        )


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
