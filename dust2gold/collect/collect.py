"""Collects from the first question to the last file.

The journal, OUTPUT.journal.jsonl, holds every request and every paid answer: a repeated command goes on from there.
Into the output directory go usage.json (requests, tokens, cost, over all runs) and, for training, collected.jsonl (the
questions and the samples, ungraded) and what `prepare` makes of that; with --evaluate samples.jsonl, predictions.jsonl
and metrics.json, as a student's `test` writes them.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.components.records.records import Question
from dust2gold.collect.journal import Journal
from dust2gold.collect.prompt import load_prompt
from dust2gold.collect.request import Choice, Request, build_request
from dust2gold.collect.results import report_flawed, write_evaluation, write_training_data
from dust2gold.collect.settings import CollectSettings
from dust2gold.core.errors import InputError
from dust2gold.core.files import write_json
from dust2gold.core.text import visible
from dust2gold.prepare.readers import read

if TYPE_CHECKING:
    from dust2gold.collect.collector import Collector

_NAMED = 5  # how many refused questions a message names
_AGAIN = "run the same command again: it asks for what is missing"


def collect(settings: CollectSettings, evaluate: bool = False) -> None:
    """Collects samples for training, or answers for a test, and writes them.

    Raises:
        InputError: If something given cannot be used, or questions are left for the next run.
        SystemExit: After SIGTERM, with what had arrived safe.
        KeyboardInterrupt: The same after Ctrl-C.
    """
    if evaluate:  # one sample, the most probable one
        settings = replace(settings, sampling=replace(settings.sampling, n=1, temperature=0.0, top_p=1.0))
    prompt = load_prompt(Path(settings.prompt))
    questions = _questions(settings)
    requests = [build_request(question, prompt, settings.endpoint, settings.sampling) for question in questions]
    n = settings.sampling.n
    with Journal(settings.journal_path, settings.prices) as journal:
        try:
            collector = _ask(settings, journal, requests)
        finally:
            usage = {"model": settings.endpoint.model, "budget": settings.budget, **asdict(journal.usage)}
            write_json(Path(settings.output) / "usage.json", usage, indent=2)
        given = [journal.samples(request.key)[:n] for request in requests]
    if settings.think:
        given = [[choice.joined() for choice in choices] for choices in given]
    answered = [*zip(questions, given, strict=True)]
    if collector is not None and collector.signal is not None:
        print(f"{journal.usage.samples:,} samples are safe in {journal.path}", file=sys.stderr)
        if collector.signal == signal.SIGINT:
            raise KeyboardInterrupt
        print("terminated; the same command goes on from here", file=sys.stderr)
        raise SystemExit(128 + collector.signal)
    total, lacking = f"{len(questions):,}", sum(len(choices) < n for _, choices in answered)
    spent = ""
    if collector is not None and collector.budget_spent:
        spent = f"the budget of ${settings.budget:,.2f} does not allow another request: "
    refused = frozenset(collector.refused if collector is not None else ())
    if refused:
        named = ", ".join(sorted(refused)[:_NAMED]) + (", …" if len(refused) > _NAMED else "")
        print(f"warning: the endpoint refuses {len(refused):,} of {total} questions: {visible(named)}", file=sys.stderr)
        lacking -= len(refused)
    report_flawed(settings, answered, evaluate)
    if evaluate:
        if lacking:  # an accuracy over the questions that happened to be answered would be another test's
            problem = f"{spent}{lacking:,} of {total} questions have no answer yet, so nothing is graded"
            remedy = f"raise the budget and {_AGAIN}" if spent else _AGAIN
            raise InputError(problem, file=settings.output, remedy=remedy)
        none = [Choice("", "refused")]  # it counts as wrong
        write_evaluation(settings, [(q, choices or none if q.id in refused else choices) for q, choices in answered])
    else:
        write_training_data(settings, answered)
    used = journal.usage
    possible = f", and perhaps ${used.possible_cost:.4f} for requests without an answer" if used.possible_cost else ""
    print(
        f"{used.requests:,} requests ({used.retries:,} retries), {used.prompt_tokens:,} tokens read, "
        f"{used.completion_tokens:,} written: ${used.cost:.4f}{possible}; see {visible(settings.output)}/usage.json"
    )
    if spent:
        print(f"{spent}{lacking:,} of {total} questions lack samples; the others are written", file=sys.stderr)
    elif collector is not None and collector.left_out:
        problem = f"{collector.left_out:,} of {total} questions lack samples; what there is is written"
        raise InputError(problem, file=settings.output, remedy=_AGAIN)


def _questions(settings: CollectSettings) -> list[Question]:
    """The questions, each once: in a file of records rationales may repeat them."""
    if Path(settings.input).resolve().parent == Path(settings.output).resolve():
        problem = "lies in the output directory, where files like it are written anew"
        raise InputError(problem, file=settings.input, field="output", remedy="choose another output directory")
    unique: dict[str, Question] = {}
    for question, *_ in read(Path(settings.input), settings.format, settings.source):
        unique.setdefault(question.id, question)
        if len(unique) == settings.limit:
            break
    if not unique:
        raise InputError("holds no question", file=settings.input, remedy="check that this is the file you meant")
    return list(unique.values())


def _ask(settings: CollectSettings, journal: Journal, requests: Sequence[Request]) -> Collector | None:
    """Asks for what the journal lacks; returns how that ended, None if it lacks nothing."""
    n = settings.sampling.n
    present = {request.question_id: min(len(journal.samples(request.key)), n) for request in requests}
    lacking = [request for request in requests if present[request.question_id] < n]
    if not lacking:
        return None
    if find_spec("openai") is None:
        raise InputError("the package openai is not installed", remedy="pip install 'dust2gold[collect]'")
    from tqdm import tqdm

    from dust2gold.collect.client import Client
    from dust2gold.collect.collector import Collector

    total = n * len(requests)
    done = sum(present.values())
    plan = f"{total - done:,} samples of {len(lacking):,} questions to ask for, {done:,} are there"
    most = sum(journal.most(request, n - present[request.question_id]) for request in lacking)
    if most and settings.sampling.max_tokens is not None:
        plan += f"; they cost ${most:,.2f} at most"
    print(plan, file=sys.stderr)

    async def run() -> Collector:
        name = f"collect {visible(settings.endpoint.model)}"
        async with aclosing(Client(settings.endpoint)) as client:
            with tqdm(total=total, initial=done, unit=" samples", dynamic_ncols=True, desc=name) as bar:
                collector = Collector(settings, journal, client, bar)
                await collector.run(lacking)
                return collector

    return asyncio.run(run())
