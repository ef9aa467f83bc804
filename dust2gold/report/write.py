"""The report of a run: results.json, analyses.json, report.md with its figures, and all of it as a page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from dust2gold.core.errors import InputError
from dust2gold.core.files import write_atomically, write_directory_atomically, write_json
from dust2gold.report.analyses.accuracy import tabulate
from dust2gold.report.analyses.accuracy_tables import add_accuracy, add_generalisation
from dust2gold.report.analyses.cases import add_cases
from dust2gold.report.analyses.negatives import add_negatives
from dust2gold.report.analyses.overlap import add_overlap
from dust2gold.report.analyses.predictions import prediction_files, read_predictions
from dust2gold.report.analyses.ranking import add_ranking, ranking_study
from dust2gold.report.analyses.scaling import accuracy_over_n, add_over_n
from dust2gold.report.analyses.seeds import add_seeds, seed_runs
from dust2gold.report.analyses.stopping import add_stopping
from dust2gold.report.analyses.verdict import add_verdict, evidence_of
from dust2gold.report.analyses.votes import collect_votes, read_vote_groups
from dust2gold.report.figures import matplotlib_defaults, save
from dust2gold.report.page import page
from dust2gold.report.section import FIGURES, Section, Study
from dust2gold.report.setup import add_setup
from dust2gold.report.shown import ANALYSES, END_OF_TABLES, MARKDOWN, PAGE, RESULTS
from dust2gold.report.training import add_data, add_leaks, add_time


def report(run: Path) -> None:
    """Writes the report into a run directory, or into one that holds a run for each of several seeds (`seed-<k>`).

    results.json holds a row for every method, data set and subject (of every seed, with `seed`), analyses.json the
    numbers of the other tables by the name of the analysis, `report/` the figures and the page. The run's path is not
    in them: the same results give the same files.

    Raises:
        InputError: If there are no predictions, or a file of the run is malformed.
    """
    section = Section()
    section.add("# Results")
    study = None
    with matplotlib_defaults():
        if seeds := seed_runs(run):
            runs = {seed: _study(path, samples=False) for seed, path in seeds.items()}
            results = [{"seed": seed, **asdict(row)} for seed, own in runs.items() for row in own.rows]
            add_verdict(section, evidence_of(runs))
            add_setup(section, runs)
            add_seeds(section, runs)
            add_leaks(section, next(iter(seeds.values())))  # the data of all seeds are the same
            section.add(END_OF_TABLES)
        else:
            study = _study(run)
            results = [asdict(row) for row in study.rows]
            add_verdict(section, evidence_of({0: study}))
            add_setup(section, {0: study})
            add_accuracy(section, study)
            add_leaks(section, study.run, study.predictions)
            section.add(END_OF_TABLES)
            for add in (add_generalisation, add_overlap, _add_votes, add_negatives, add_cases, add_data, add_time):
                add(section, study)
        numbers = {"schema": 1, **{name: records for name, records in section.numbers.items() if records}}
        markdown = "\n".join(section.lines).rstrip()
        with write_directory_atomically(run / FIGURES) as directory:
            for name, figure in section.figures.items():
                save(figure, directory / name)
            html = page(markdown, results, numbers, section.shown, study)
            (directory / Path(PAGE).name).write_text(html, encoding="utf-8")
    write_json(run / RESULTS, results, indent=1)
    write_json(run / ANALYSES, numbers, indent=1)
    with write_atomically(run / MARKDOWN) as stream:
        stream.write(markdown + "\n")


def _study(run: Path, samples: bool = True) -> Study:
    predictions = read_predictions(run)
    rows = tabulate(predictions)
    if not rows:
        raise InputError("every predictions.jsonl is empty", file=run, remedy="evaluate at least one test question")
    return Study(run, predictions, rows, read_vote_groups(prediction_files(run)) if samples else {})


def _add_votes(section: Section, study: Study) -> None:
    """Adds what the sampled answers of each data set that was voted on say."""
    if not study.vote_groups and any(row.method == "sc" for row in study.rows):
        section.note(
            "Left out: M_rank against ASC, accuracy over the number of samples, adaptive stopping, cases. They need "
            "the samples (scored.jsonl or samples.jsonl) beside the predictions.jsonl of the votes."
        )
    for dataset, vote_groups in study.vote_groups.items():
        if (ranking := ranking_study(vote_groups)) is not None:
            add_ranking(section, dataset, ranking)
        votes = collect_votes(vote_groups)
        points = accuracy_over_n(votes)
        add_over_n(section, dataset, points)
        add_stopping(section, dataset, votes, points)
