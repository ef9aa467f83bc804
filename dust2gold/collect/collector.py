"""Asks all questions, several at a time, until each has its samples or something ends it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dust2gold.collect.budget import Budget, BudgetSpentError
from dust2gold.collect.client import Client, RefusedError, TransientError
from dust2gold.collect.journal import Journal
from dust2gold.collect.request import Request
from dust2gold.collect.settings import CollectSettings
from dust2gold.core.errors import InputError

if TYPE_CHECKING:
    from tqdm import tqdm

_GRACE = 20.0
"""Seconds that requests under way have to arrive after a signal: they are paid. SLURM kills 30 s after SIGTERM."""

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds between two attempts, where the endpoint asks for no time
_PATIENCE = 600.0  # the longest wait in seconds that an endpoint may ask for
_HOPELESS = 4  # questions in a row without an answer, or as many as are asked at once if those are more


class Collector:
    """Fills a journal; `bar` counts the samples. Make it inside the event loop it runs in."""

    def __init__(self, settings: CollectSettings, journal: Journal, client: Client, bar: tqdm[Any]) -> None:
        self.left_out = 0  # questions whose requests kept failing
        self.refused: list[str] = []  # questions that the endpoint does not answer
        self._answered = journal.usage.samples > 0  # whether any was, by an earlier run too
        self.signal: int | None = None  # which ended it, if one did
        self.budget_spent = False  # whether that ended it
        self._error: InputError | None = None
        self._stop = asyncio.Event()  # no more requests should begin
        self._endpoint = settings.endpoint
        self._journal = journal
        self._client = client
        self._bar = bar
        self._budget = Budget(settings.budget, journal.usage.cost + journal.usage.possible_cost)
        self._left_out_in_a_row = 0
        self._workers: list[asyncio.Task[None]] = []

    async def run(self, requests: Sequence[Request]) -> None:
        """Asks, `concurrency` questions at a time.

        Raises:
            InputError: What no repetition mends; what was under way has arrived and is kept.
        """
        waiting = iter(requests)
        with self._signals():
            count = min(self._endpoint.concurrency, len(requests))
            self._workers = [asyncio.create_task(self._work(waiting)) for _ in range(count)]
            ends = await asyncio.gather(*self._workers, return_exceptions=True)
        if len(self.refused) == len(requests) and not self._answered and self._error is None:
            problem = f"the endpoint refuses all {len(requests):,} questions, see above"
            self._error = InputError(problem, remedy="check endpoint.model, endpoint.parameters and the prompt")
        for end in (*ends, self._error):
            if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
                raise end

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Makes Ctrl-C and SIGTERM stop it while the block runs; in a thread signals stay where they are.

        The requests under way are given up at the second signal, or when they have not arrived after `_GRACE`.
        """
        loop = asyncio.get_running_loop()

        def receive(number: int) -> None:
            if self.signal is not None:
                self._give_up()
                return
            self._print(f"stopping; requests under way have {_GRACE:g} s to arrive (again: give them up)")
            self.signal = number
            self._stop.set()
            loop.call_later(_GRACE, self._give_up)

        before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                handler = signal.getsignal(number)
                loop.add_signal_handler(number, receive, number)
                before[number] = handler
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                if handler is not None:  # else it was not Python's
                    signal.signal(number, handler)

    def _print(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)

    def _give_up(self) -> None:
        for worker in self._workers:
            worker.cancel()

    async def _work(self, waiting: Iterator[Request]) -> None:
        for request in waiting:
            if self._stop.is_set():
                return
            try:
                await self._fill(request)
            except BudgetSpentError:
                self.budget_spent = self.budget_spent or not self._stop.is_set()
                self._stop.set()
            except InputError as error:
                self._fail(error)
            except BaseException:  # a defect of ours, or given up: the others end too
                self._stop.set()
                raise

    def _fail(self, error: InputError) -> None:
        """Ends collecting, unless something did before: nothing new begins, what is under way arrives."""
        if not self._stop.is_set():
            self._error = error
            self._stop.set()

    def _leave_out(self, question: str, because: str) -> None:
        """Leaves a question for the next run; once nothing works any more, trying the others is a waste of hours."""
        self.left_out += 1
        self._print(f"left for the next run: question '{question}': {because}")
        self._left_out_in_a_row += 1
        if self._left_out_in_a_row >= max(_HOPELESS, self._endpoint.concurrency):
            problem = f"{self._left_out_in_a_row} questions one after the other got no answer; the last: {because}"
            remedy = "see that the endpoint is up and lets you in, then run the same command: it goes on from here"
            self._fail(InputError(problem, remedy=remedy))

    def _refuse(self, question: str, error: RefusedError) -> None:
        """Leaves out a question that the endpoint refuses; where it has refused all so far, something else is wrong."""
        self.refused.append(question)
        self._print(f"left out: {error.problem}")
        if not self._answered and len(self.refused) >= max(_HOPELESS, self._endpoint.concurrency):
            self._fail(error)

    async def _fill(self, request: Request) -> None:
        """Asks for a question's samples until it has them all: servers may give fewer than asked for."""
        failures = 0
        while (missing := request.n - len(self._journal.samples(request.key))) > 0 and not self._stop.is_set():
            try:
                got = await self._ask(request, min(missing, self._endpoint.choices_per_request or missing))
                self._answered, failures, self._left_out_in_a_row = True, 0, 0
                self._bar.update(min(got, missing))
            except RefusedError as error:
                return self._refuse(request.question_id, error)
            except TransientError as error:
                failures += 1
                asked = error.retry_after
                if failures > self._endpoint.retries:
                    return self._leave_out(request.question_id, f"{error} ({failures} times)")
                if asked is not None and asked > _PATIENCE:
                    return self._leave_out(
                        request.question_id, f"{error}; the endpoint wants {asked:.0f} s of patience"
                    )
                # Part of each wait is chance, so that requests which failed together do not come back together.
                own = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(failures - 1, 60)) * random.uniform(0.5, 1)
                wait = own if asked is None else asked + random.uniform(0, _FIRST_WAIT / 2)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), wait)

    async def _ask(self, request: Request, n: int) -> int:
        """Sends one request within the budget and keeps its answer; returns how many samples it brought."""
        key = request.key
        await self._budget.reserve(most := self._journal.most(request, n))
        cost = 0.0
        try:
            if self._stop.is_set():  # meanwhile
                return 0
            name, seed = self._journal.ask(request, n)
            cost = most  # until it is known
            reply = await self._client.ask(request, n, seed, name)
            cost = self._journal.answer(request, reply)
            self._bar.set_postfix_str(f"${self._journal.usage.cost:.4f}", refresh=False)
            return len(reply.choices)
        except TransientError as error:
            cost = most if error.charged else 0.0
            self._journal.fail(key, str(error), cost)
            raise
        except InputError as error:
            if not error.file:  # the endpoint's refusal, not the disk's
                cost = 0.0
                self._journal.fail(key, error.problem, cost)
            raise
        except asyncio.CancelledError:
            self._journal.fail(key, "given up", cost)
            raise
        finally:
            await self._budget.book(most, cost)
