"""Every paid answer, on disk before anything is made of it.

An append-only file of JSON lines. The first names the journal; then each request has one line when it goes out and one
when it comes back or fails (shortened):

    {"schema": 1, "journal": "9f0c..."}
    {"asked": "5b1d...", "key": "e3b0...", "question_id": "math-train-00000", "n": 8, "most": 0.0127}
    {"answered": "5b1d...", "key": "e3b0...", "question_id": "math-train-00000", "model": "gpt-3.5-turbo-0125",
     "samples": [{"text": "Adding ...", "finish": "stop", "reasoning": ""}], "prompt_tokens": 512,
     "completion_tokens": 1408, "counted": true, "cost": 0.0024}
    {"failed": "5b1d...", "because": "HTTP 503: overloaded", "cost": 0.0}

`key` is a hash of all that the samples depend on, so that a journal serves any settings: what was paid for under others
stays, and counts again when they come back. A request without a second line was under way when the process died: nobody
knows whether it is charged, so the budget counts the most it may cost.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import uuid
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dust2gold.collect.request import Choice, Reply, Request
from dust2gold.collect.settings import Prices
from dust2gold.core.errors import InputError
from dust2gold.core.files import open_in_place
from dust2gold.core.locks import hold
from dust2gold.core.provenance import short_hash

_SCHEMA = 1


@dataclass
class Usage:
    """What a journal's requests amount to, over all runs."""

    requests: int = 0
    retries: int = 0  # requests that repeated one
    answered: int = 0
    failed: int = 0
    unknown: int = 0  # requests under way when a run was killed
    samples: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0  # answers without a token count; theirs is an upper bound, from the bytes of the texts
    cost: float = 0.0  # US dollars for the answers
    possible_cost: float = 0.0  # US dollars that requests without an answer (time-outs, kills, ...) cost at most


class Journal:
    """A journal, held by one process at a time; made if need be. A last line that was cut off is dropped.

    Raises:
        InputError: If another process holds it, it cannot be written, or a line is damaged.
    """

    def __init__(self, path: Path, prices: Prices) -> None:
        self.path = path
        self.usage = Usage()
        self._prices = prices
        self._samples: defaultdict[str, list[Choice]] = defaultdict(list)
        self._answers: Counter[str] = Counter()
        self._asked: set[str] = set()
        self._open: dict[str, float] = {}
        self._stream = _locked(path)
        try:
            self._end = self._load()
            if not self._end:
                self._journal = uuid.uuid4().hex
                self._append({"schema": _SCHEMA, "journal": self._journal})
        except BaseException:
            self._stream.close()
            raise
        for name in list(self._open):
            self._give_up(name)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stream.close()

    def samples(self, key: str) -> list[Choice]:
        """The paid samples of a request, in the order they came."""
        return self._samples.get(key, [])

    def name(self, key: str) -> str:
        """The name of the next request for this key: the same until it is answered, another in each journal."""
        return short_hash([self._journal, key, self._answers[key]])

    def ask(self, request: Request, n: int) -> tuple[str, int | None]:
        """Notes that a request for `n` samples goes out; returns its name and the seed to send with it."""
        name, most = self.name(request.key), self.most(request, n)
        self._note({"asked": name, "key": request.key, "question_id": request.question_id, "n": n, "most": most})
        return name, request.seed_of(self._answers[request.key])

    def most(self, request: Request, n: int) -> float:
        """What a request for `n` samples may cost at most, in US dollars; without `max_tokens` its prompt alone."""
        return self._prices.cost(request.longest_prompt, n * (request.max_tokens or 0))

    def answer(self, request: Request, reply: Reply) -> float:
        """Keeps an answer, safe from a power cut when this returns; returns what it cost, in US dollars."""
        counted = reply.prompt_tokens is not None and reply.completion_tokens is not None
        # What the server did not count costs at most a token per byte.
        lengths = [len((choice.reasoning + choice.text).encode()) + 1 for choice in reply.choices]
        most = sum(min(length, request.max_tokens or length) for length in lengths)
        prompt = request.longest_prompt if reply.prompt_tokens is None else reply.prompt_tokens
        completion = most if reply.completion_tokens is None else reply.completion_tokens
        cost = self._prices.cost(prompt, completion)
        asked = {"answered": self.name(request.key), "key": request.key, "question_id": request.question_id}
        given = {"model": reply.model, "samples": [asdict(choice) for choice in reply.choices]}
        tokens = {"prompt_tokens": prompt, "completion_tokens": completion, "counted": counted}
        self._note({**asked, **given, **tokens, "cost": cost})
        os.fsync(self._stream.fileno())
        return cost

    def fail(self, key: str, because: str, cost: float) -> None:
        """Notes that a request failed, and what it may cost nevertheless, in US dollars."""
        self._note({"failed": self.name(key), "because": because, "cost": cost})

    def _load(self) -> int:
        """Takes in the file's whole lines, cuts off a torn last one, and returns where they end."""
        self._stream.seek(0)
        data = self._stream.readall() or b""
        end = data.rfind(b"\n") + 1
        if torn := data[end:]:
            try:
                json.loads(torn)
                self._stream.write(b"\n")  # all but the line break arrived: it is paid for
                data, end = data + b"\n", len(data) + 1
            except (ValueError, RecursionError):
                print(f"warning: {self.path}: cut off {len(torn):,} bytes after the last whole line", file=sys.stderr)
                self._stream.truncate(end)
        for number, line in enumerate(data[:end].splitlines(), 1):
            try:
                value = json.loads(line)
                if number == 1:
                    self._journal, schema = str(value["journal"]), value["schema"]
                else:
                    self._count(value)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                remedy = "mend it or remove it: the samples of a removed line are asked, and paid, for again"
                raise InputError(f"damaged line ({error!r})", file=self.path, line=number, remedy=remedy) from error
            if schema != _SCHEMA:
                problem = f"schema version {schema!r}, this program reads {_SCHEMA}"
                raise InputError(problem, file=self.path, line=1, field="schema", remedy="choose another journal")
        return end

    def _note(self, value: dict[str, Any]) -> None:
        self._append(value)
        self._count(value)

    def _append(self, value: dict[str, Any]) -> None:
        """Writes a line, whole or not at all."""
        line = memoryview((json.dumps(value, ensure_ascii=False) + "\n").encode())
        length = len(line)
        try:
            while line:
                line = line[self._stream.write(line) or 0 :]
        except OSError as error:
            self._stream.truncate(self._end)
            remedy = "free some space and run the same command again: it goes on from here"
            raise InputError(f"cannot write ({error.strerror or error})", file=self.path, remedy=remedy) from error
        self._end += length

    def _give_up(self, name: str) -> None:
        """Counts a request whose process died: nobody knows whether it is charged."""
        self.usage.unknown += 1
        self.usage.possible_cost += self._open.pop(name)

    def _count(self, value: dict[str, Any]) -> None:
        """Counts a line."""
        usage = self.usage
        if "asked" in value:
            name = str(value["asked"])
            if name in self._open:
                self._give_up(name)
            usage.requests += 1
            usage.retries += name in self._asked
            self._asked.add(name)
            self._open[name] = _dollars(value["most"])
        elif "failed" in value:
            self._open.pop(str(value["failed"]), None)
            usage.failed += 1
            usage.possible_cost += _dollars(value["cost"])
        else:
            key = str(value["key"])
            fields = [(str(s["text"]), str(s["finish"]), str(s.get("reasoning", ""))) for s in value["samples"]]
            choices = [Choice(*each) for each in fields]
            self._open.pop(str(value["answered"]), None)
            self._samples[key] += choices
            self._answers[key] += 1
            usage.answered += 1
            usage.samples += len(choices)
            usage.prompt_tokens += int(value["prompt_tokens"])
            usage.completion_tokens += int(value["completion_tokens"])
            usage.uncounted += not value["counted"]
            usage.cost += _dollars(value["cost"])


def _dollars(value: float) -> float:
    """An amount in a line; of NaN, or below 0, no budget would ever be spent."""
    amount = float(value)
    if not 0 <= amount < math.inf:
        raise ValueError(f"{amount} is no cost")
    return amount


def _locked(path: Path) -> io.FileIO:
    """Opens a journal unbuffered, for reading and appending, and locks it against other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream: io.FileIO = open_in_place(path, "ab+", buffering=0)  # type: ignore[assignment]
    try:
        hold(stream)
    except BlockingIOError as error:
        stream.close()
        remedy = "wait for it, or choose another journal"
        raise InputError("another process is collecting into it", file=path, remedy=remedy) from error
    return stream
