"""Two hosts are one; one that vanishes ends the other, and both go on when it is back."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from callbacks.checkpoint_files import read_checkpoint
from dust2gold import cli
from tests.forks import ending, fork, log_of
from tests.hosts import Host, two_hosts, why_not
from tests.records import write_held, write_positive
from tests.together import end_monitors, together
from tests.weights import check_same
from tests.words import CPU, REPOSITORY, stage_words

Capture = pytest.CaptureFixture[str]

REASON = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
TIMEOUT = 20
"""Seconds that a process waits for another: `trainer.strategy.init_args.timeout`, ten minutes in the configs."""
Words = Callable[..., list[str]]


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    with two_hosts() as made:
        yield made


@pytest.fixture
def options(tmp_path: Path) -> str:
    """What makes the stage small and its machines quick to lose patience; a checkpoint every 2 steps."""
    write_positive(tmp_path / "t.jsonl", 12)
    return (
        f"--data.validation {write_held(tmp_path / 'v.jsonl')} --data.verdicts positive --data.batch_size 2 "
        "--model.dtype float32 --model.lora.dropout 0.3 --model.warmup_steps 2 --model.optimizer.init_args.lr 0.01 "
        f"{CPU} --trainer.max_epochs 2 --trainer.precision 32-true --trainer.strategy.init_args.timeout 0:00:{TIMEOUT} "
        "--trainer.callbacks+=callbacks.checkpoints.RunCheckpoint --trainer.callbacks.every_n_train_steps=2"
    )


@pytest.fixture
def words(options: str, tiny_student: Path, tmp_path: Path) -> Words:
    """A `fit` of configs/neg.yaml under a config of configs/trainer."""

    def make(root: str, nodes: int = 2, devices: int = 1, more: str = "", trainer: str = "multi_node") -> list[str]:
        (tmp_path / root).mkdir(exist_ok=True)
        where = f"--config {REPOSITORY}/configs/trainer/{trainer}.yaml {options} --data.train {tmp_path}/t.jsonl"
        where += f" --trainer.num_nodes {nodes} --trainer.devices {devices} {more}"
        return stage_words("fit", "neg", tiny_student, tmp_path / root, where)

    return make


def start(hosts: list[Host], words: list[str], home: Path) -> list[int]:
    """Starts a command line on both hosts; the first is the master."""
    end_monitors()
    started = []
    for host in hosts:
        (home / host.name).mkdir(parents=True, exist_ok=True)
        started.append(fork(host.inside(lambda: cli.main(words), hosts[0].address), home / host.name))
    return started


def finish(hosts: list[Host], words: list[str], home: Path) -> None:
    """Runs a command line to its end on both."""
    assert [ending(process) for process in start(hosts, words, home)] == [0, 0]


@pytest.mark.parametrize("trainer", ["multi_node", "fsdp2"])
def test_two_hosts_are_two_processes(hosts: list[Host], words: Words, tmp_path: Path, trainer: str) -> None:
    assert together(lambda: cli.main(words("here", 1, 2, trainer=trainer)), tmp_path / "logs-here") == [0, 0]
    finish(hosts, words("apart", trainer=trainer), tmp_path / "logs")
    check_same(tmp_path / "here", tmp_path / "apart")


@pytest.mark.parametrize("lost", [0, 1])
def test_a_host_that_vanishes(hosts: list[Host], words: Words, tmp_path: Path, capfd: Capture, lost: int) -> None:
    logs, stands = tmp_path / "logs", tmp_path / "stands"
    finish(hosts, words("whole"), logs)
    stand = f"--trainer.callbacks.rank={lost} --trainer.callbacks.file={stands} --trainer.callbacks.after=9"
    processes = start(hosts, words("run", more=f"--trainer.callbacks+=tests.interruptions.Stand {stand}"), logs)
    last = time.monotonic() + 180
    while not stands.exists():
        assert time.monotonic() < last, f"no {stands}"
        time.sleep(0.05)
    hosts[lost].vanish(processes[lost])
    began, left = time.monotonic(), 1 - lost
    code, waited = ending(processes[left]), time.monotonic() - began
    said = "".join(capfd.readouterr()) + log_of(logs / hosts[left].name)
    assert code not in (0, 9, -9), said[-3000:]
    assert waited < TIMEOUT + 30
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 8
    hosts[lost].set(hosts[lost].link, "up")
    finish(hosts, words("run"), logs)
    assert "resuming from step 8" in "".join(capfd.readouterr()) + log_of(logs / hosts[0].name)
    check_same(tmp_path / "whole", tmp_path / "run")


def test_the_torchrun_script(hosts: list[Host], words: Words, options: str, tiny_student: Path, tmp_path: Path) -> None:
    """docs/cluster/torchrun.sh on both hosts, as its header says, with options for a machine without GPUs."""
    finish(hosts, words("neg-by-fit"), tmp_path / "logs")
    (tmp_path / "data").mkdir()
    write_positive(tmp_path / "data/negative.jsonl", 12)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shared = {"PATH": path, "OMP_NUM_THREADS": "1", "NODES": "2", "GPUS": "1", "MASTER_ADDR": hosts[0].address}
    shared |= {"STUDENT": str(tiny_student), "RUN": str(tmp_path)}
    started = [
        subprocess.Popen(
            ["ip", "netns", "exec", host.name, "bash", str(REPOSITORY / "docs/cluster/torchrun.sh"), *options.split()],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **shared, "GLOO_SOCKET_IFNAME": host.link, "NODE_RANK": str(host.number)},
        )
        for host in hosts
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said[0][-3000:] + said[1][-3000:]
    check_same(tmp_path / "neg-by-fit", tmp_path / "neg")
