"""What the models were trained on, what the negatives do to NAT, and how long it took."""

from __future__ import annotations

import json
from dataclasses import asdict

from dust2gold.core.errors import InputError
from dust2gold.core.text import escape
from dust2gold.report.analyses.negatives import negatives_study
from dust2gold.report.figures import negatives_figure
from dust2gold.report.markdown import table
from dust2gold.report.sections.section import NONE, Section, Study, p_value, percent
from dust2gold.run.record import Records, duration

_COUNTS = ("questions", "samples", "positive", "negative", "ungradable")


def negatives_section(study: Study) -> Section:
    """NAT over the number of its negatives and their labels, where such rows were trained."""
    section = Section()
    found = negatives_study(study.run, study.rows, study.predictions)
    for dataset in dict.fromkeys(row.dataset for row in found):
        own = [row for row in found if row.dataset == dataset]
        heading = ["method", "share of D_neg %", "D_neg", "D_pos", "accuracy %", "95% interval", "points over nat", "p"]
        section.add(f"## {escape(dataset)}: what the negatives do to NAT")
        body = []
        for row in own:
            against = [NONE, NONE]
            if row.against_nat is not None:
                against = [f"{row.against_nat.points:+.2f}", p_value(row.against_nat.p_value)]
            counts = [NONE if count is None else f"{count:,}" for count in (row.negative, row.positive)]
            interval = f"{percent(row.ci_low)} to {percent(row.ci_high)}"
            body.append([escape(row.method), str(row.share), *counts, percent(row.accuracy), interval, *against])
        section.add(*table(heading, body))
        section.explain(
            "each row is NAT with another D_neg behind M_neg, of so many samples; `nat-semantic` grades by value "
            "instead of by text, which moves mislabelled right answers to D_pos. Points and p (McNemar) are "
            "against `nat`, paired."
        )
        section.show(
            "negatives", dataset, negatives_figure(dataset, own), f"NAT over its share of negatives on {dataset}"
        )
    section.count("negatives", [asdict(row) for row in found])
    return section


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
