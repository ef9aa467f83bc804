"""The report of a run: results.json, analyses.json, and report.md with its figures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError
from dust2gold.core.files import write_atomically, write_directory_atomically
from dust2gold.report.analyses.accuracy import tabulate
from dust2gold.report.analyses.predictions import prediction_files, read_predictions
from dust2gold.report.analyses.seeds import seed_runs
from dust2gold.report.analyses.votes import read_vote_groups
from dust2gold.report.figures import save
from dust2gold.report.sections.accuracy import accuracy_section, generalisation_section
from dust2gold.report.sections.cases import cases_section
from dust2gold.report.sections.overlap import overlap_section
from dust2gold.report.sections.section import FIGURES, Section, Study
from dust2gold.report.sections.seeds import seeds_section
from dust2gold.report.sections.training import data_section, negatives_section, time_section
from dust2gold.report.sections.votes import votes_section
from dust2gold.report.shown import ANALYSES, END_OF_TABLES, MARKDOWN, RESULTS, without_figures

_AFTER_ACCURACY = (
    generalisation_section,
    overlap_section,
    votes_section,
    negatives_section,
    cases_section,
    data_section,
    time_section,
)


@dataclass(frozen=True)
class Report:
    """The paths of what `report` wrote, and the lines of its accuracy tables for the terminal."""

    results: Path
    markdown: Path
    analyses: Path
    tables: list[str]


def report(run: Path) -> Report:
    """Writes the report into a run directory, or into one that holds a run for each of several seeds (`seed-<k>`).

    results.json holds a row for every method, data set and subject (of every seed, with `seed`), analyses.json the
    numbers of the other tables by the name of the analysis, `report/` the figures. The run's path is not in them: the
    same results give the same files.

    Raises:
        InputError: If there are no predictions, or a file of the run is malformed.
    """
    seeds = seed_runs(run)
    if not seeds:
        study = _study(run)
        results = [asdict(row) for row in study.rows]
        first, *others = accuracy_section(study), *(section(study) for section in _AFTER_ACCURACY)
        return _write(run, results, first, others)
    rows = {seed: _study(path, samples=False).rows for seed, path in seeds.items()}
    results = [{"seed": seed, **asdict(row)} for seed, own in rows.items() for row in own]
    return _write(run, results, seeds_section(rows), [])


def _study(run: Path, samples: bool = True) -> Study:
    predictions = read_predictions(run)
    rows = tabulate(predictions)
    if not rows:
        raise InputError("every predictions.jsonl is empty", file=run, remedy="evaluate at least one test question")
    return Study(run, predictions, rows, read_vote_groups(prediction_files(run)) if samples else {})


def _write(run: Path, results: list[dict[str, Any]], first: Section, others: Iterable[Section]) -> Report:
    sections = [first, *others]
    made = Report(run / RESULTS, run / MARKDOWN, run / ANALYSES, without_figures(first.lines))
    numbers = {name: records for section in sections for name, records in section.numbers.items() if records}
    figures = {name: figure for section in sections for name, figure in section.figures.items()}
    _write_json(made.results, results)
    _write_json(made.analyses, {"schema": 1, **numbers})
    with write_directory_atomically(run / FIGURES) as directory:
        for name, figure in figures.items():
            save(figure, directory / name)
    rest = [line for section in sections[1:] for line in section.lines]
    lines = ["# Results", "", *first.lines, END_OF_TABLES, "", *rest]
    with write_atomically(made.markdown) as stream:
        stream.write("\n".join(lines).rstrip() + "\n")
    return made


def _write_json(path: Path, value: Any) -> None:
    with write_atomically(path) as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False)
        stream.write("\n")
