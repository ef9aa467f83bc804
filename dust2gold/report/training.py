"""What the models were trained on and how long it took."""

from __future__ import annotations

import json

from dust2gold.core.errors import InputError
from dust2gold.core.text import escape
from dust2gold.report.markdown import table
from dust2gold.report.section import Section, Study
from dust2gold.run.record import Records, duration

_COUNTS = ("questions", "samples", "positive", "negative", "ungradable")


def data_section(study: Study) -> Section:
    """The teacher samples behind the training, from what `prepare` counted."""
    section = Section()
    path = study.run / "data" / "summary.json"
    if path.is_file():
        section.add("## Training data")
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            groups = {**summary["by_subject"], "all": summary}
            body = [[escape(name), *(f"{int(counts[key]):,}" for key in _COUNTS)] for name, counts in groups.items()]
        except (ValueError, KeyError, TypeError) as error:
            remedy = "write it again with `prepare`"
            raise InputError(f"not what `prepare` writes ({error!r})", file=path, remedy=remedy) from error
        section.add(*table(["subject", *_COUNTS], body))
        section.explain(
            "questions the teacher answered, and its samples: `positive` ones (D_pos) reach the gold answer, "
            "`negative` ones (D_neg) another or none, `ungradable` ones train nothing."
        )
    return section


def time_section(study: Study) -> Section:
    """How long each stage took, the reporting itself excepted: its time is not known while it writes."""
    section = Section()
    done = [
        record
        for record in Records(study.run).read_all()
        if record.state == "done" and not any(command.command.startswith("report ") for command in record.commands)
    ]
    if done:
        body = [[escape(record.stage), escape(record.about), duration(record.seconds)] for record in done]
        body.append(["total", "", duration(sum(record.seconds for record in done))])
        section.add("## Time")
        section.add(*table(["stage", "what it does", "time"], body, texts=2))
        section.explain(
            "time of each stage's commands on the machine that ran them, all attempts together; writing this report is "
            "not in it."
        )
    return section
