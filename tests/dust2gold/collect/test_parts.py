"""Prompt files, settings, waits and the budget, each alone."""

from __future__ import annotations

import asyncio
import statistics
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from dust2gold.collect.budget import Budget, BudgetSpentError
from dust2gold.collect.client import read_key, retry_after
from dust2gold.collect.collector import delay
from dust2gold.collect.prompt import load_prompt
from dust2gold.collect.settings import CollectSettings, Endpoint, Prices, RetryPolicy, TeacherSampling
from dust2gold.core.errors import InputError

# Prompts.


def test_a_prompt_of_a_question_alone(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text('ask: "Problem:\\n{question}\\nSolution:"\n')
    prompt = load_prompt(tmp_path / "p.yaml")
    assert prompt.text(r"What is {x} in \frac{1}{2}?") == "Problem:\nWhat is {x} in \\frac{1}{2}?\nSolution:\n"
    assert prompt.messages("{question}")[-1]["content"] == "Problem:\n{question}\nSolution:"
    assert [message["role"] for message in prompt.messages("x")] == ["user"]


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("instruction: x", "instruction", "unknown key"),
        ("ask: Solve it", "ask", "must hold {question} once"),
        ("stop: x", "stop", "a list of texts"),
        ("shots: {a: b}", "shots", "a list was expected"),
        ("shots: [x]", "shots.1", "a mapping was expected"),
        ("shots: [{question: a}]", "shots.1.rationale", "is missing"),
        ("shots: [{question: a, rationale: 5}]", "shots.1.rationale", "a text was expected"),
        ("shots: [{question: a, rationale: '5'}]", "shots.1.rationale", "states no answer"),
        ("shots: [{question: a, rationale: b, answer: c}]", "shots.1.answer", "unknown key"),
        ("just words", None, "a mapping was expected"),
        ("a: [", None, "not YAML"),
    ],
)
def test_bad_prompts_are_named(text: str, field: str | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_prompt(path)
    assert problem in str(caught.value)
    assert (caught.value.file, caught.value.field) == (str(path), field)
    assert caught.value.remedy


# Settings.


@pytest.mark.parametrize(
    ("kind", "values", "field"),
    [
        (Endpoint, {"model": " "}, "endpoint.model"),
        (Endpoint, {"concurrency": 0}, "endpoint.concurrency"),
        (Endpoint, {"timeout": 0}, "endpoint.timeout"),
        (Endpoint, {"choices_per_request": 0}, "endpoint.choices_per_request"),
        (Endpoint, {"base_url": "localhost:8000"}, "endpoint.base_url"),
        (Endpoint, {"base_url": "http://"}, "endpoint.base_url"),
        (Endpoint, {"base_url": "http://a:99999999"}, "endpoint.base_url"),
        (Endpoint, {"base_url": "https://me:sk-secret@host/v1"}, "endpoint.base_url"),
        (Endpoint, {"key_variable": "sk-secret"}, "endpoint.key_variable"),
        (Endpoint, {"parameters": {"n": 2}}, "endpoint.parameters.n"),
        (Endpoint, {"parameters": {"stream": True}}, "endpoint.parameters.stream"),
        (TeacherSampling, {"n": 0}, "sampling.n"),
        (TeacherSampling, {"temperature": -1}, "sampling.temperature"),
        (TeacherSampling, {"top_p": 0}, "sampling.top_p"),
        (TeacherSampling, {"max_tokens": 0}, "sampling.max_tokens"),
        (RetryPolicy, {"retries": -1}, "retry.retries"),
        (RetryPolicy, {"longest": float("inf")}, "retry.longest"),
        (Prices, {"prompt": -1}, "prices.prompt"),
        (CollectSettings, {"limit": 0}, "limit"),
        (CollectSettings, {"budget": -1, "prices": Prices(1, 1)}, "budget"),
        (CollectSettings, {"budget": 1}, "budget"),
        (
            CollectSettings,
            {"budget": 1, "prices": Prices(1, 1), "sampling": TeacherSampling(max_tokens=None)},
            "budget",
        ),
    ],
)
def test_settings_out_of_range_are_named(kind: Any, values: dict[str, Any], field: str) -> None:
    required: dict[Any, dict[str, Any]] = {
        Endpoint: {"model": "m"},
        CollectSettings: {"input": "a", "output": "b", "prompt": "c", "endpoint": Endpoint("m")},
    }
    with pytest.raises(InputError) as caught:
        kind(**{**required.get(kind, {}), **values})
    assert caught.value.field == field
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "  ", "sk-\nx", "sk-ключ"])
def test_keys_no_header_can_hold(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(InputError) as caught:
        read_key("SOME_KEY")
    assert not value.strip() or value.strip() not in str(caught.value)


# Waits.


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "3"}, 3.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_a_date_to_come() -> None:
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=100), usegmt=True)
    assert 97 < (retry_after({"retry-after": date}) or 0) <= 100


def test_waits_double_up_to_the_longest_and_half_of_each_is_chance() -> None:
    retry = RetryPolicy(first=1, longest=10)
    for failures, longest in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (5000, 10)):
        waits = [delay(retry, failures, None) for _ in range(200)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
        assert statistics.fmean(waits) == pytest.approx(0.75 * longest, rel=0.1)
    assert all(20 <= delay(retry, 1, 20) <= 20.5 for _ in range(50))


# The budget.


def test_the_budget_waits_for_what_is_under_way_and_then_says_no() -> None:
    async def spend() -> list[str]:
        events: list[str] = []
        budget = Budget(10, spent=1)
        await budget.reserve(5)

        async def second() -> None:
            await budget.reserve(8)
            events.append("second may begin")
            await budget.settle(8, 8)

        waiting = asyncio.create_task(second())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        events.append("first came out cheaper")
        await budget.settle(5, 1)
        await waiting
        assert budget.spent == 10
        with pytest.raises(BudgetSpentError):
            await budget.reserve(0.01)
        await budget.reserve(0.0)  # what costs nothing fits
        return events

    assert asyncio.run(spend()) == ["first came out cheaper", "second may begin"]


def test_no_limit_is_no_limit() -> None:
    async def spend() -> None:
        budget = Budget(None)
        for _ in range(5):
            await budget.reserve(1e9)

    asyncio.run(spend())
