"""Signals to real processes: wherever in a command they arrive, it ends with 128 + their number."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from dust2gold.core.signals import SIGNALS, Preempted, SignalListener, signals_as_exit
from dust2gold.run.stage import Stage
from tests.forks import finish, log_of
from tests.own_stages import write_stages
from tests.records import write_asked, write_positive
from tests.together import end_monitors
from tests.words import stage_words

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    end_monitors()
    write_positive(tmp_path / "t.jsonl", 4)
    write_asked(tmp_path / "q.jsonl", 2)
    return tmp_path


def words(home: Path, student: Path, verb: str, hook: str, number: int) -> list[str]:
    """A small command that sends itself a signal."""
    data = "--data.questions q.jsonl --model.sampling.max_new_tokens 4 --model.sampling.samples 1"
    if verb == "fit":
        data = "--data.train t.jsonl --data.verdicts positive --data.validation_fraction 0.5"
        data += " --without_callbacks [LearningRateMonitor]"
    stop = f"--trainer.callbacks+=tests.interruptions.SignalAt --trainer.callbacks.hook={hook}"
    more = f"{data} {stop} --trainer.callbacks.number={int(number)} --trainer.logger false"
    return stage_words(verb, "neg", student, home / "run", more)


@pytest.mark.parametrize(
    ("verb", "hook", "number"),
    [
        ("fit", "init", signal.SIGTERM),
        ("fit", "setup", signal.SIGUSR1),
        ("fit", "setup", signal.SIGINT),
        ("fit", "on_train_end", signal.SIGTERM),
        ("fit", "on_train_end", signal.SIGINT),
        ("fit", "teardown", signal.SIGUSR1),
        ("test", "on_test_batch_start", signal.SIGTERM),
        ("test", "on_test_end", signal.SIGINT),
        ("predict", "on_predict_batch_start", signal.SIGUSR1),
        ("predict", "on_predict_end", signal.SIGTERM),
    ],
)
def test_wherever_it_arrives(home: Path, tiny_student: Path, verb: str, hook: str, number: int) -> None:
    code = finish(words(home, tiny_student, verb, hook, number), home)
    assert code == 128 + number, log_of(home)
    assert "Traceback" not in log_of(home)
    if hook == "on_train_end" and number == signal.SIGTERM:  # it was held back until what was under way was done
        assert (home / "run/adapter-last").is_dir()
    if hook == "on_predict_batch_start":
        assert "SIGUSR1: the same command goes on from here" in log_of(home)


def test_run_does_not_go_on_after_a_late_signal(home: Path, tiny_student: Path) -> None:
    fit = " ".join(words(home, tiny_student, "fit", "on_train_end", signal.SIGTERM))
    later = "generate --train-questions 3 --test-questions 2 --samples 1 --output {run}/later"
    stages = Stage("fit", "", (fit,), outputs=()), Stage("later", "", (later,), needs=("fit",), outputs=("later",))
    run = ["run", *write_stages(home / "own.py", *stages)]
    assert finish(run, home) == 143, log_of(home)
    assert not (home / "run/later").exists()
    assert "stage 'fit', command 1 of 1 was stopped by a signal; carry on with" in log_of(home)


def test_listeners_nest_and_restore_in_reverse() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    heard: list[str] = []
    with SignalListener(lambda number: heard.append("outer")) as outer:
        with SignalListener(lambda number: heard.append("inner")) as inner:
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == ["inner", "outer"]
    assert (inner.received, outer.received) == (signal.SIGUSR1, signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_got_lost_within_ends_the_block() -> None:
    for lost in (contextlib.suppress(SystemExit), SignalListener()):  # a library may swallow the exception
        with pytest.raises(Preempted, match="143"), signals_as_exit(), lost:
            os.kill(os.getpid(), signal.SIGTERM)
