"""Which questions two methods both solve: the paper's Table 1, and the same for NAT and NCE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from dust2gold.core.text import escape
from dust2gold.report.analyses.overlap import Overlap, overlaps
from dust2gold.report.markdown import table
from dust2gold.report.sections.section import NONE, Section, Study, short_name, subject_order


def overlap_section(study: Study) -> Section:
    """The tables of each data set on which at least one of the pairs was tested."""
    section = Section()
    found = overlaps(study.predictions)
    for dataset in study.datasets:
        own = [overlap for overlap in found if overlap.dataset == dataset]
        if not own:
            continue
        pairs = list(dict.fromkeys((overlap.first, overlap.second) for overlap in own))
        first, second = pairs[0]
        section.add(f"## {escape(dataset)}: questions that two models solve")
        section.add(*_table_1([overlap for overlap in own if (overlap.first, overlap.second) == pairs[0]]))
        section.explain(
            f"questions that `{first}` solves, that `{second}` solves, and both; IoU is both / either, as in the "
            "paper's Table 1. `by chance` is how many both would solve if the one knew nothing of the other."
        )
        if len(pairs) > 1:
            cells = {(o.subject, o.first, o.second): o for o in own}
            subjects = sorted({o.subject for o in own}, key=subject_order)
            body = [[short_name(s), *(_cell(cells.get((s, *pair))) for pair in pairs)] for s in subjects]
            section.add(*table(["subject", *(f"{first}, {second}" for first, second in pairs)], body))
            section.explain(
                "IoU of each pair by subject, and in brackets how many questions both solve of those that either "
                "solves. The nearer to 1, the more two models solve the same questions."
            )
    section.count("overlap", [asdict(overlap) for overlap in found])
    return section


def _table_1(overlaps: Sequence[Overlap]) -> list[str]:
    heading = ["subject", overlaps[0].first, overlaps[0].second, "both", "by chance", "IoU"]
    body = [
        [short_name(o.subject), str(o.solved_first), str(o.solved_second), str(o.both), f"{o.by_chance:.1f}", _iou(o)]
        for o in sorted(overlaps, key=lambda o: subject_order(o.subject))
    ]
    return table(heading, body)


def _cell(overlap: Overlap | None) -> str:
    if overlap is None:
        return NONE
    either = overlap.solved_first + overlap.solved_second - overlap.both
    return f"{_iou(overlap)} ({overlap.both} of {either})"


def _iou(overlap: Overlap) -> str:
    return NONE if overlap.iou is None else f"{overlap.iou:.3f}"
