"""The options of `collect`: the fields of each class are the keys of a config."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dust2gold.core.errors import InputError
from dust2gold.core.secret_options import may_hold_secret

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _check(holds: bool, field: str, problem: str, remedy: str | None = None) -> None:
    if not holds:
        raise InputError(problem, field=field, remedy=remedy)


def _check_least(least: int, **values: float | None) -> None:
    """Checks values by the names of their fields, with `__` for a dot."""
    for name, value in values.items():
        problem = f"must be finite and at least {least}, found {value}"
        _check(value is None or least <= value < math.inf, name.replace("__", "."), problem)


def check_address(address: str, field: str) -> None:
    """Checks that an endpoint's address is one, and holds no key: it is repeated in files.

    Raises:
        InputError: If not, with the `field`; it does not repeat the address.
    """
    remedy = "put the key into the environment, see endpoint.key_variable"
    _check(not may_hold_secret(address), field, "holds more than an address, perhaps a key or a password", remedy)
    try:
        url = urlsplit(address)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:  # no port
        usable = False
    _check(bool(usable), field, "no http or https address", "as in http://localhost:8000/v1")


@dataclass(frozen=True)
class Endpoint:
    """Where the model is, and how it wants to be asked.

    Args:
        model: The model's name, as the endpoint knows it.
        base_url: The endpoint up to and including its version, e.g. http://localhost:8000/v1; null: OPENAI_BASE_URL, or
            else OpenAI's own. It may end in `?api-version=`, and in no other query.
        api: chat: /chat/completions, the prompt as a conversation; completions: /completions, the prompt as one text.
        key_variable: The environment variable that holds the API key; null: the endpoint wants none.
        concurrency: How many requests may be under way at once.
        timeout: Seconds one request may take.
        retries: Repetitions in a row of a request that failed and may succeed later (429, 5xx, time-outs, broken
            connections, answers that make no sense); then its question is left for the next run.
        choices_per_request: Ask for no more samples than this at once: 1 for servers that refuse n > 1; null: for all
            that are missing.
        token_limit: The parameter that caps the generated tokens: OpenAI's reasoning models know only the newer one.
        parameters: More parameters for each request, e.g. {reasoning_effort: low}.
    """

    model: str
    base_url: str | None = None
    api: Literal["chat", "completions"] = "chat"
    key_variable: str | None = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 6
    choices_per_request: int | None = None
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.model.strip() != "", "endpoint.model", "is empty")
        _check_least(1, endpoint__concurrency=self.concurrency, endpoint__choices_per_request=self.choices_per_request)
        _check_least(0, endpoint__retries=self.retries)
        _check(0 < self.timeout < math.inf, "endpoint.timeout", f"must be a time above 0, found {self.timeout}")
        # What stands there instead may be the key itself: it is not repeated.
        named = self.key_variable is None or bool(_VARIABLE.fullmatch(self.key_variable))
        remedy = "put the key itself only into the environment: export NAME=..."
        _check(named, "endpoint.key_variable", "no name of an environment variable", remedy)
        if self.base_url is not None:
            check_address(self.base_url, "endpoint.base_url")
        taken = {"model", "messages", "prompt", "n", "temperature", "top_p", "seed", "stop", "stream", self.token_limit}
        known = sorted(taken & self.parameters.keys())
        _check(not known, f"endpoint.parameters.{''.join(known[:1])}", "has a setting of its own, or cannot be chosen")


@dataclass(frozen=True)
class TeacherSampling:
    """How the model samples.

    Args:
        n: Samples per question (paper: 8).
        temperature: Paper: 0.5.
        top_p: Keeps the most probable tokens up to this mass.
        max_tokens: Cap on the tokens of one sample; null: the endpoint's own, and no budget can be kept.
        seed: Makes an endpoint that knows seeds repeat itself; null: none is sent.
    """

    n: int = 8
    temperature: float = 0.5
    top_p: float = 1.0
    max_tokens: int | None = 1024
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_least(1, sampling__n=self.n, sampling__max_tokens=self.max_tokens)
        _check_least(0, sampling__temperature=self.temperature)
        _check(0 < self.top_p <= 1, "sampling.top_p", f"must be in (0, 1], found {self.top_p}")


@dataclass(frozen=True)
class Prices:
    """What the endpoint charges.

    Args:
        prompt: US dollars for a million tokens read.
        completion: US dollars for a million tokens written.
    """

    prompt: float = 0.0
    completion: float = 0.0

    def __post_init__(self) -> None:
        _check_least(0, prices__prompt=self.prompt, prices__completion=self.completion)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars for so many tokens."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


@dataclass(frozen=True)
class CollectSettings:
    """What to ask which model, and what to write.

    Args:
        input: The questions: a file or folder as `prepare` reads it.
        output: Directory for the results.
        prompt: The few-shot prompt, e.g. configs/prompts/math.yaml; edit it, or write your own.
        endpoint: Where the model is.
        format: The input's format; records: our own questions.jsonl, the others as their publishers have them.
        source: The data set's name in ids and tables; null: the format's own.
        journal: The file of all paid answers, which several outputs may share; null: OUTPUT.journal.jsonl, beside the
            output directory, since a pipeline clears the directory of a stage that it does again.
        limit: Ask only this many questions, the first ones.
        sampling: How the model samples; with --evaluate one greedy sample, whatever it says.
        prices: What it costs.
        budget: US dollars for this journal, all runs together; no request begins that could exceed it.
        grader: string (the paper's labels), semantic (math-verify too) or both (only what the two agree on).
        think: Put a reasoning model's thoughts, where the endpoint gives them apart, before its answer as
            <think>...</think>; the journal keeps them in any case.
        method: The row of the report, with --evaluate; null: the model's name.
    """

    input: str
    output: str
    prompt: str
    endpoint: Endpoint
    format: str = "records"
    source: str | None = None
    journal: str | None = None
    limit: int | None = None
    sampling: TeacherSampling = field(default_factory=TeacherSampling)
    prices: Prices = field(default_factory=Prices)
    budget: float | None = None
    grader: Literal["string", "semantic", "both"] = "string"
    think: bool = False
    method: str | None = None

    def __post_init__(self) -> None:
        _check_least(1, limit=self.limit)
        _check_least(0, budget=self.budget)
        priced = self.budget is None or self.prices != Prices()
        _check(priced, "budget", "cannot be kept without prices", "set prices.prompt and prices.completion")
        capped = self.budget is None or self.sampling.max_tokens is not None
        remedy = "set sampling.max_tokens: without it nobody knows what a request may cost"
        _check(capped, "budget", "cannot be kept without a cap on the tokens", remedy)

    @property
    def journal_path(self) -> Path:
        """Where the journal is."""
        if self.journal is not None:
            return Path(self.journal)
        output = Path(self.output).resolve()  # "." has no name
        return output.with_name(f"{output.name}.journal.jsonl")
