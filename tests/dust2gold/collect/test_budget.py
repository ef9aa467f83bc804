import asyncio

import pytest

from dust2gold.collect.budget import Budget, BudgetSpentError


def test_the_budget_waits_for_what_is_under_way_and_then_says_no() -> None:
    async def spend() -> None:
        budget = Budget(10, spent=1)
        await budget.reserve(5)
        waiting = asyncio.create_task(budget.reserve(8))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await budget.book(5, 1)  # cheaper than it might have been
        await waiting
        await budget.book(8, 8)
        assert budget.spent == 10
        with pytest.raises(BudgetSpentError):
            await budget.reserve(0.01)
        await budget.reserve(0.0)  # what costs nothing fits
        for _ in range(5):
            await Budget(None).reserve(1e9)  # no limit

    asyncio.run(spend())
