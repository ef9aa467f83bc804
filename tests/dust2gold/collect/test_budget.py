from __future__ import annotations

import asyncio

import pytest

from dust2gold.collect.budget import Budget, BudgetSpentError


def test_the_budget_waits_for_what_is_under_way_and_then_says_no() -> None:
    async def spend() -> list[str]:
        events: list[str] = []
        budget = Budget(10, spent=1)
        await budget.reserve(5)

        async def second() -> None:
            await budget.reserve(8)
            events.append("second may begin")
            await budget.book(8, 8)

        waiting = asyncio.create_task(second())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        events.append("first came out cheaper")
        await budget.book(5, 1)
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
