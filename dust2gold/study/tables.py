"""table.md, results.json and the figures of a study, made from its records alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dust2gold.core.files import write_atomically, write_json
from dust2gold.core.machine import described
from dust2gold.core.text import escape
from dust2gold.report.analyses.methods import descriptions
from dust2gold.report.figures import matplotlib_defaults, over_questions_figure, save
from dust2gold.report.section import NONE, Section, p_value, percent
from dust2gold.study.cells import CellRun
from dust2gold.study.records import ArmRecord
from dust2gold.study.results import Contrast, MethodRow, answers_of, contrasts, method_rows
from dust2gold.study.settings import StudySettings
from dust2gold.study.words import in_words, points

_METHODS = (
    "accuracy in %: mean over the seeds, each with its own training and test questions, standard deviation (n − 1), "
    "and the mean by level."
)
_PRIMARY = (
    "the first method minus the second in points, on each seed's own questions. Interval and p: hierarchical bootstrap "
    "over seeds and questions, 10,000 resamples. Student: 95% interval from the differences by seed alone; where few "
    "seeds differ much, the bootstrap is too sure. Holm: p corrected over the primary contrasts. Detectable: the "
    "smallest difference that would have been seen with 80% power (2.8 standard errors)."
)
_SECONDARY = "as above, but not corrected for their number: hints, no tests."


def write_study(study: StudySettings, runs: Sequence[CellRun]) -> str:
    """Writes the files beside the records and returns what to show on the terminal; the same records give the same."""
    for run in runs:
        run.read()
    section, results = Section(), {}
    section.add("# The study's table")
    section.note(_progress(runs))
    rows: dict[str, list[MethodRow]] = {}
    records = [record for run in runs for record in run.records.values()]
    for cell in study.cells:
        answers = answers_of([record for record in records if record.cell == cell])
        rows[cell] = method_rows(answers)
        found = contrasts(answers, study.contrasts, study.secondary)
        sentences = in_words(found, len(study.seeds))
        _add_cell(section, cell, rows[cell], found, sentences)
        values = {"settings": study.cells[cell], "methods": [asdict(row) for row in rows[cell]]}
        results[cell] = {**values, "contrasts": [_numbers(each) for each in found], "words": sentences}
    section.add(*descriptions(row.method for own in rows.values() for row in own))
    shown = "\n".join(section.lines).replace("\n\n\n", "\n\n")
    directory = Path(study.records)
    directory.mkdir(parents=True, exist_ok=True)
    _add_figures(section, study, rows, directory)
    if records:
        _add_origin(section, records)
    with write_atomically(directory / "table.md") as stream:
        stream.write("\n".join(section.lines).rstrip() + "\n")
    write_json(directory / "results.json", {"schema": 1, "cells": results}, indent=1)
    return shown


def _progress(runs: Sequence[CellRun]) -> str:
    there, planned = sum(len(run.records) for run in runs), sum(len(run.arms) for run in runs)
    if there == planned:
        return f"Complete: {there} records, one for each arm, cell and seed."
    waiting = "; ".join(f"{run.name}: {', '.join(run.missing)}" for run in runs if run.missing)
    return f"NOT COMPLETE: {there} of {planned} records of arms, cells and seeds are there. Missing: {escape(waiting)}."


def _add_cell(
    section: Section, cell: str, rows: Sequence[MethodRow], found: Sequence[Contrast], sentences: Sequence[str]
) -> None:
    section.add(f"## {escape(cell)}")
    section.note(" ".join(sentences))
    levels = sorted({level for row in rows for level in row.levels})
    if rows:
        heading = ["method", "seeds", "mean", "deviation", *(f"level {level}" for level in levels)]
        section.add_table(heading, [_method_cells(row, levels) for row in rows], _METHODS)
    for title, primary, explained in (
        ("Primary contrasts, announced before the run", True, _PRIMARY),
        ("Secondary contrasts", False, _SECONDARY),
    ):
        if own := [_contrast_cells(each) for each in found if each.primary == primary]:
            section.add(f"### {escape(cell)}: {title}")
            heading = ["contrast", "seeds", "difference", "interval (95%)", "Student", "p (bootstrap)"]
            heading += [*(["Holm"] if primary else []), "detectable", "by seed"]
            section.add_table(heading, own, explained)


def _method_cells(row: MethodRow, levels: Sequence[str]) -> list[str]:
    found = row.accuracy
    cells = [escape(row.method), str(found.seeds), percent(found.mean), percent(found.deviation)]
    return [*cells, *(percent(row.levels.get(level)) for level in levels)]


def _contrast_cells(contrast: Contrast) -> list[str]:
    found, name = contrast.difference, f"{contrast.method} − {contrast.against}"
    if found is None:
        return [escape(name), "0", *[NONE] * (7 if contrast.primary else 6)]
    cells = [escape(name), str(len(contrast.seeds)), points(found.mean)]
    cells += [f"{points(found.low)} to {points(found.high)}"]
    cells += [NONE if found.student is None else " to ".join(map(points, found.student)), p_value(found.p)]
    cells += [] if contrast.corrected is None else [p_value(contrast.corrected)]
    return [*cells, f"{100 * found.detectable:.1f}", " ".join(map(points, found.by_seed))]


def _numbers(contrast: Contrast) -> dict[str, Any]:
    found = contrast.difference
    return {**asdict(contrast), **({} if found is None else {"detectable": found.detectable, "student": found.student})}


def _add_figures(
    section: Section, study: StudySettings, rows: Mapping[str, Sequence[MethodRow]], directory: Path
) -> None:
    """Adds accuracy over the number of training questions, of cells that differ in nothing else."""
    groups: dict[str, list[str]] = defaultdict(list)
    for cell, values in study.cells.items():
        others = {name: value for name, value in values.items() if name != "train_questions"}
        if "train_questions" in values and rows[cell]:
            groups[", ".join(f"{name}: {value}" for name, value in sorted(others.items()))].append(cell)
    drawn = {name: cells for name, cells in groups.items() if len(cells) > 1}
    for number, (name, cells) in enumerate(drawn.items(), 1):
        lines: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
        for cell in sorted(cells, key=lambda cell: int(study.cells[cell]["train_questions"])):
            for row in rows[cell]:
                questions = int(study.cells[cell]["train_questions"])
                lines[row.method].append((questions, row.accuracy.mean, row.accuracy.deviation or 0.0))
        file = f"questions-{number}.png"
        with matplotlib_defaults():
            save(over_questions_figure(name, lines), directory / file)
        section.add(f"![Accuracy over the number of training questions{escape(f' ({name})' if name else '')}]({file})")


def _add_origin(section: Section, records: Sequence[ArmRecord]) -> None:
    """Adds how many records each commit, machine and set of versions has made, when, and in how much time."""
    groups: dict[tuple[str, ...], list[ArmRecord]] = defaultdict(list)
    for record in records:
        made = record.made
        tree = {True: "", False: " and changes", None: ""}[made.clean]
        commit = "unknown" if made.commit is None else f"{made.commit[:10]}{tree}"
        groups[commit, described(made.machine), ", ".join(f"{k} {v}" for k, v in made.versions.items())].append(record)
    body = []
    for key, own in sorted(groups.items()):
        dates = sorted(record.made.date[:10] for record in own)
        hours = sum(record.made.seconds for record in own) / 3600
        cells = [*map(escape, key), " to ".join(dict.fromkeys((dates[0], dates[-1]))), str(len(own)), f"{hours:.2f}"]
        body.append(cells)
    section.add("## Where the records come from")
    heading = ["commit", "machine", "versions", "dates", "records", "hours"]
    section.add_table(heading, body, "hours: of the arms' own commands, not of data and other stages.", texts=4)
