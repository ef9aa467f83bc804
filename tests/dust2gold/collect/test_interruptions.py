"""Collecting in a process of its own that is killed, terminated and interrupted."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.components.records.records import read_rationales
from dust2gold import cli
from tests.dust2gold.collect.conftest import KEY, Make
from tests.endpoint import Endpoint
from tests.words import REPOSITORY

QUESTIONS, N = 100, 3


@pytest.fixture
def command(make: Make, tmp_path: Path) -> list[str]:
    """A command line that asks `QUESTIONS` questions for `N` samples each."""
    settings = make(questions=QUESTIONS, n=N, timeout=10)
    (tmp_path / "collect.yaml").write_text(yaml.safe_dump(asdict(settings)), encoding="utf-8")
    return [sys.executable, str(REPOSITORY / "cli.py"), "collect", "--config", str(tmp_path / "collect.yaml")]


@contextmanager
def running(command: list[str], server: Endpoint, answers: int) -> Iterator[subprocess.Popen[str]]:
    """Starts the command and waits until it was given so many answers more."""
    before = len(server.billed)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while len(server.billed) < before + answers and process.poll() is None:
            time.sleep(0.001)
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(output: Path, kind: str) -> list[dict[str, Any]]:
    text = output.with_name("out.journal.jsonl").read_text(encoding="utf-8")
    return [value for value in map(json.loads, text.splitlines()) if kind in value]


def used(output: Path) -> Any:
    return json.loads((output / "usage.json").read_text(encoding="utf-8"))


def finish(command: list[str], output: Path) -> None:
    """Runs the command to its end, in this process, and checks that each question has its samples, each once."""
    assert cli.main(command[2:]) == 0
    records = [r for name in ("positive", "negative") for r in read_rationales(output / f"{name}.jsonl")]
    assert sorted(record.id for record in records) == sorted(f"q{q}/{k}" for q in range(QUESTIONS) for k in range(N))
    assert len({(record.question, record.rationale) for record in records}) == QUESTIONS * N


@pytest.mark.parametrize("idempotent", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_kill_9_keeps_all(idempotent: bool, kills: int, command: list[str], server: Endpoint, tmp_path: Path) -> None:
    server.pause = 0.03
    server.idempotent = idempotent
    chance = random.Random(kills)
    for _ in range(kills):
        with running(command, server, answers=chance.randrange(1, 6)) as process:
            time.sleep(chance.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    finish(command, tmp_path / "out")
    answered = lines(tmp_path / "out", "answered")
    kept = [text["text"] for line in answered for text in line["samples"]]
    made = [choice["message"]["content"] for answer in server.billed.values() for choice in answer["choices"]]
    assert len(answered) == QUESTIONS  # no question was asked again once its samples had arrived
    usage = used(tmp_path / "out")
    assert usage["requests"] >= len(server.asked)
    assert 1 <= usage["unknown"] <= 4 * kills  # what was under way
    if idempotent:
        assert sorted(kept) == sorted(made)
    else:  # nobody can know better than the server what it sent to the dead
        assert set(kept) <= set(made)
        assert len(made) - len(kept) <= N * usage["unknown"]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signals_keep_answers(number: int, status: int, command: list[str], server: Endpoint, tmp_path: Path) -> None:
    server.pause = 0.2
    with running(command, server, answers=2) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert process.returncode == status
    assert "the same command goes on from here" in err
    assert "Traceback" not in err
    assert KEY not in out + err
    assert len(lines(tmp_path / "out", "answered")) == len(server.billed) < QUESTIONS
    assert used(tmp_path / "out")["answered"] == len(server.billed)
    server.pause = 0
    finish(command, tmp_path / "out")
    assert len(server.asked) == len(server.billed) == QUESTIONS


@pytest.mark.slow
def test_a_second_signal_gives_up_what_is_under_way(command: list[str], server: Endpoint, tmp_path: Path) -> None:
    server.pause = 5
    with running(command, server, answers=0) as process:
        while len(server.asked) < 4:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 3
    assert process.returncode == 143
    assert "Traceback" not in err
    given_up = lines(tmp_path / "out", "failed")
    assert [line["because"] for line in given_up] == ["given up"] * 4
    assert all(line["cost"] > 0 for line in given_up)  # they may be charged
