"""What is spent, and what is reserved for requests under way."""

from __future__ import annotations

import asyncio

_CENT = 1e-9  # dollars: sums of floats may miss an equality by an ulp


class BudgetSpentError(Exception):
    """The next request could exceed the budget."""


class Budget:
    """Lets a request begin only if the budget holds out even should everything under way cost as much as it can.

    Amounts are US dollars; a `limit` of None is none.
    """

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        self.limit = limit
        self.spent = spent
        self._reserved = 0.0
        self._under_way = 0
        self._changed = asyncio.Condition()

    async def reserve(self, most: float) -> None:
        """Sets aside what a request may cost, waiting for others to come out cheaper than they might have.

        Raises:
            BudgetSpentError: If nothing is under way and it still does not fit.
        """
        async with self._changed:
            while self.limit is not None and self.spent + self._reserved + most > self.limit + _CENT:
                if not self._under_way:
                    raise BudgetSpentError
                await self._changed.wait()
            self._reserved += most
            self._under_way += 1

    async def book(self, most: float, cost: float) -> None:
        """Books what a request did cost, in the place of what was set aside for it."""
        async with self._changed:
            self._under_way -= 1
            self._reserved = self._reserved - most if self._under_way else 0.0
            self.spent += cost
            self._changed.notify_all()
