"""Asks, keeps, and makes of the answers what was wanted.

The journal, OUTPUT.journal.jsonl, holds every request and every paid answer: a repeated command goes on from there.
Into the output directory go usage.json (requests, tokens, cost, over all runs) and, for training, collected.jsonl (the
questions and the samples, ungraded) and what `prepare` makes of that; with --evaluate samples.jsonl, predictions.jsonl
and metrics.json, as a student's `test` writes them.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.components.records.readers import read
from datamodules.components.records.records import Question
from dust2gold.collect.journal import Journal
from dust2gold.collect.prompt import load_prompt
from dust2gold.collect.request import Request, build_request
from dust2gold.collect.settings import CollectSettings
from dust2gold.core.errors import InputError
from dust2gold.core.files import write_atomically
from dust2gold.core.text import visible

if TYPE_CHECKING:
    from dust2gold.collect.stop import Stop


def collect(settings: CollectSettings, evaluate: bool = False) -> None:
    """Collects samples for training, or answers for a test, and writes them.

    Raises:
        InputError: If something given cannot be used, or questions are left for the next run.
        SystemExit: After SIGTERM, with what had arrived safe.
        KeyboardInterrupt: The same after Ctrl-C.
    """
    if evaluate:
        from dust2gold.collect.evaluation import greedy

        settings = replace(settings, sampling=greedy(settings.sampling))
    output = Path(settings.output)
    prompt = load_prompt(Path(settings.prompt))
    questions = _questions(settings)
    requests = [build_request(question, prompt, settings.endpoint, settings.sampling) for question in questions]
    with Journal(settings.journal_path, settings.prices) as journal:
        keys = {request.question_id: request.key for request in requests}
        try:
            left_out, stop = _ask(settings, journal, requests)
        finally:
            _write_usage(settings, journal)
        answered = [(question, journal.samples(keys[question.id])[: settings.sampling.n]) for question in questions]
    _end_after_signal(stop, journal)
    lacking = sum(len(choices) < settings.sampling.n for _, choices in answered)
    if evaluate:
        _refuse_part(settings, lacking, len(questions), stop)
        from dust2gold.collect.evaluation import write_evaluation

        write_evaluation(settings, answered)
    else:
        from dust2gold.collect.training import write_training_data

        write_training_data(settings, answered)
    _say_usage(settings, journal)
    if stop is not None and stop.budget_spent:
        _tell(f"{_budget(settings)}: {lacking:,} of {len(questions):,} questions lack samples; the others are written")
    elif left_out:
        raise InputError(
            f"{len(left_out):,} of {len(questions):,} questions lack samples; what there is is written",
            file=output,
            remedy="run the same command again: it asks for what is missing",
        )


def _questions(settings: CollectSettings) -> list[Question]:
    """The questions, each once: in a file of records rationales may repeat them."""
    if Path(settings.input).resolve().parent == Path(settings.output).resolve():
        raise InputError(
            "lies in the output directory, where files like it are written anew",
            file=settings.input,
            field="output",
            remedy="choose another output directory",
        )
    unique: dict[str, Question] = {}
    for question, _ in read(Path(settings.input), settings.format, settings.source):
        unique.setdefault(question.id, question)
        if len(unique) == settings.limit:
            break
    questions = list(unique.values())
    if not questions:
        raise InputError("holds no question", file=settings.input, remedy="check that this is the file you meant")
    return questions


def _ask(
    settings: CollectSettings, journal: Journal, requests: Sequence[Request]
) -> tuple[dict[str, str], Stop | None]:
    """Asks for what the journal lacks; returns the questions left out, and what ended it (None: nothing was asked)."""
    n = settings.sampling.n
    there = {request.question_id: min(len(journal.samples(request.key)), n) for request in requests}
    lacking = [request for request in requests if there[request.question_id] < n]
    if not lacking:
        return {}, None
    if find_spec("openai") is None:
        raise InputError("the package openai is not installed", remedy="pip install 'dust2gold[collect]'")
    from tqdm import tqdm

    from dust2gold.collect.client import Client
    from dust2gold.collect.collector import Collector
    from dust2gold.collect.stop import Stop

    _say_plan(settings, journal, lacking, there)

    async def run() -> tuple[dict[str, str], Stop]:
        client = Client(settings.endpoint)
        stop = Stop()
        try:
            with tqdm(
                total=n * len(requests),
                initial=sum(there.values()),
                unit=" samples",
                dynamic_ncols=True,
                desc=f"collect {visible(settings.endpoint.model)}",
            ) as bar:
                return await Collector(settings, journal, client, stop, bar).run(lacking), stop
        finally:
            await client.aclose()

    return asyncio.run(run())


def _say_plan(settings: CollectSettings, journal: Journal, lacking: Sequence[Request], there: dict[str, int]) -> None:
    n = settings.sampling.n
    missing = sum(n - there[request.question_id] for request in lacking)
    line = f"{missing:,} samples of {len(lacking):,} questions to ask for, {sum(there.values()):,} are there"
    most = sum(journal.most(request, n - there[request.question_id]) for request in lacking)
    if most and settings.sampling.max_tokens is not None:
        line += f"; they cost ${most:,.2f} at most"
    _tell(line)


def _end_after_signal(stop: Stop | None, journal: Journal) -> None:
    if stop is None or stop.signal is None:
        return
    _tell(f"{journal.usage.samples:,} samples are safe in {journal.path}")
    if stop.signal == signal.SIGINT:
        raise KeyboardInterrupt
    _tell("terminated; the same command goes on from here")
    raise SystemExit(128 + stop.signal)


def _refuse_part(settings: CollectSettings, lacking: int, asked: int, stop: Stop | None) -> None:
    """An accuracy over the questions that happened to be answered would be another test's."""
    if not lacking:
        return
    problem = f"{lacking:,} of {asked:,} questions have no answer yet, so nothing is graded"
    remedy = "run the same command again: it asks for what is missing"
    if stop is not None and stop.budget_spent:
        problem, remedy = f"{_budget(settings)}: {problem}", f"raise the budget and {remedy}"
    raise InputError(problem, file=settings.output, remedy=remedy)


def _budget(settings: CollectSettings) -> str:
    return f"the budget of ${settings.budget:,.2f} does not allow another request"


def _write_usage(settings: CollectSettings, journal: Journal) -> None:
    usage = {"model": settings.endpoint.model, "budget": settings.budget, **asdict(journal.usage)}
    with write_atomically(Path(settings.output) / "usage.json") as stream:
        stream.write(json.dumps(usage, indent=2, ensure_ascii=False) + "\n")


def _say_usage(settings: CollectSettings, journal: Journal) -> None:
    usage = journal.usage
    possible = f", and perhaps ${usage.possible_cost:.4f} for requests without an answer" * (usage.possible_cost > 0)
    print(
        f"{usage.requests:,} requests ({usage.retries:,} retries), {usage.prompt_tokens:,} tokens read, "
        f"{usage.completion_tokens:,} written: ${usage.cost:.4f}{possible}; see {visible(settings.output)}/usage.json"
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
