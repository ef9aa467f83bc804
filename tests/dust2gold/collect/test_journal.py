"""The journal: what was cut off, damaged, locked or does not fit, and what its lines add up to."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dust2gold.collect.journal import Journal
from dust2gold.collect.request import Choice, Reply, Request
from dust2gold.collect.settings import Prices
from dust2gold.core.errors import InputError

PRICES = Prices(prompt=10, completion=100)
REPLY = Reply((Choice("a \u2028 b\r", "stop"), Choice("c", "length", "d")), 7, 5, "gpt-test-0125")


def request(question: str = "q0", **changes: Any) -> Request:
    body = {"model": "gpt-test", "messages": [{"role": "user", "content": "Why?"}], "temperature": 0.5}
    return dataclasses.replace(Request(question, "chat", body, 2, 64, None), **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with an answer to q0 and one to q1."""
    path = tmp_path / "out" / "journal.jsonl"
    with Journal(path, PRICES) as journal:
        for question in ("q0", "q1"):
            journal.ask(request(question), 2)
            journal.answer(request(question), REPLY)
    return path


def usage(path: Path, *names: str) -> tuple[float, ...]:
    """What the lines of a journal add up to."""
    with Journal(path, PRICES) as journal:
        return tuple(getattr(journal.usage, name) for name in names)


def test_gives_back_what_it_was_given(path: Path) -> None:
    with Journal(path, PRICES) as journal:
        assert tuple(journal.samples(request("q0").key)) == REPLY.choices
        assert journal.samples(request("q2").key) == []
    assert usage(path, "requests", "answered", "samples", "unknown") == (2, 2, 4, 0)
    assert usage(path, "prompt_tokens", "completion_tokens") == (14, 10)
    assert usage(path, "cost") == pytest.approx([(14 * 10 + 10 * 100) / 1e6])


def test_samples_without_thoughts_are_read(path: Path) -> None:
    path.write_text(re.sub(', "reasoning": "d?"', "", path.read_text(encoding="utf-8")), encoding="utf-8")
    with Journal(path, PRICES) as journal:
        assert journal.samples(request("q0").key)[1] == Choice("c", "length")


def test_the_key_is_of_all_that_samples_depend_on() -> None:
    others = [request("q1"), request(api="completions"), request(seed=1), request(body={"model": "gpt-4"})]
    assert len({request().key, *(other.key for other in others)}) == 5
    assert request(n=5).key == request().key


@pytest.mark.parametrize("cut", [1, 2, 10, 100])
def test_a_torn_last_line_is_dropped(cut: int, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path, PRICES) as journal:
        assert (f"warning: {path}: cut off " in capsys.readouterr().err) == (cut > 1)
        there = len(journal.samples(request("q1").key))
        assert there == (2 if cut == 1 else 0)  # only its line break is missing: it is paid, and kept
        assert len(journal.samples(request("q0").key)) == 2
        assert journal.usage.unknown == (cut > 1)
        if not there:
            journal.ask(request("q1"), 2)
            journal.answer(request("q1"), REPLY)
    with Journal(path, PRICES) as journal:
        assert len(journal.samples(request("q1").key)) == 2
        assert journal.usage.retries == (cut > 1)


def test_every_prefix_can_be_gone_on_from(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with Journal(path, PRICES) as journal:
            journal.ask(request("q9"), 2)
        assert usage(path, "unknown") >= (1,)
        assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_a_request_without_an_outcome_may_have_cost_the_most(path: Path) -> None:
    with Journal(path, PRICES) as journal:
        most = journal.most(request("q2"), 2)
        journal.ask(request("q2"), 2)
    for _ in range(2):
        assert usage(path, "unknown", "possible_cost") == pytest.approx((1, most))
    with Journal(path, PRICES) as journal:
        name, _ = journal.ask(request("q2"), 2)
        assert name == journal.name(request("q2").key)
        journal.answer(request("q2"), REPLY)
        assert journal.name(request("q2").key) != name
    assert usage(path, "requests", "retries", "unknown", "possible_cost") == pytest.approx((4, 1, 1, most))


def test_a_damaged_line_is_named_and_nothing_touched(path: Path) -> None:
    lines = path.read_text().splitlines()
    amounts = [
        re.sub(r'"(cost|most)": [^,}]*', rf'"\1": {amount}', line)
        for line in lines[1:3]
        for amount in ("NaN", "Infinity", "1e999", "-1")
    ]
    smaples = lines[2].replace('"samples"', '"smaples"')
    for damage in ("{", "[]", '{"answered": 1}', smaples, "[" * 9999, *amounts):
        path.write_text("\n".join([*lines[:2], damage, *lines[3:]]) + "\n")
        before = path.read_bytes()
        with pytest.raises(InputError, match="damaged line") as caught:
            Journal(path, PRICES)
        assert (caught.value.file, caught.value.line) == (str(path), 3)
        assert path.read_bytes() == before
    path.write_text("\n".join(lines[:2]) + "\n")
    assert usage(path, "unknown") == (1,)  # no lock is left behind


def test_what_cannot_be_opened(path: Path, tmp_path: Path) -> None:
    with Journal(path, PRICES), pytest.raises(InputError, match="another process is collecting into it"):
        Journal(path, PRICES)
    path.write_text(path.read_text().replace('{"schema": 1', '{"schema": 2', 1))
    with pytest.raises(InputError, match="schema version 2"):
        Journal(path, PRICES)


def test_two_journals_name_their_requests_differently(tmp_path: Path) -> None:
    with Journal(tmp_path / "a" / "journal.jsonl", PRICES) as a, Journal(tmp_path / "b" / "journal.jsonl", PRICES) as b:
        assert a.name(request().key) != b.name(request().key)


def test_a_full_disk_leaves_whole_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line is written, then the disk is full."""
    before = path.read_bytes()
    with Journal(path, PRICES) as journal:
        stream = journal._stream
        written: list[int] = []

        def write(data: memoryview) -> int:
            if written:
                raise OSError(28, "No space left on device")
            written.append(stream.write(data[: len(data) // 2]))
            return written[0]

        full = SimpleNamespace(write=write, truncate=stream.truncate, close=stream.close)
        monkeypatch.setattr(journal, "_stream", full)
        with pytest.raises(InputError, match="No space left on device") as caught:
            journal.ask(request("q2"), 2)
        assert (caught.value.file, journal.usage.requests) == (str(path), 2)
    assert path.read_bytes() == before
