"""Two hosts are one; one that vanishes ends the other, and both go on when it is back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from callbacks.checkpoint_files import read_checkpoint
from dust2gold import cli
from tests.forks import ending, fork
from tests.hosts import Host, log_of, two_hosts, why_not
from tests.records import write_positive
from tests.together import end_monitors, together
from tests.weights import check_same

REASON = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]

REPOSITORY = Path(__file__).parents[1]
TIMEOUT = 20
"""Seconds that a process waits for another: `trainer.strategy.init_args.timeout`, ten minutes in the configs."""
Words = Callable[..., list[str]]


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    with two_hosts() as made:
        yield made


@pytest.fixture
def words(tiny_student: Path, tmp_path: Path) -> Words:
    """A `fit` of configs/neg.yaml under a config of configs/trainer, on CPUs; a checkpoint every 2 steps."""

    def make(
        root: str, nodes: int = 2, devices: int = 1, stand: list[str] | None = None, trainer: str = "multi_node"
    ) -> list[str]:
        (tmp_path / root).mkdir(exist_ok=True)
        return [
            *f"fit --config {REPOSITORY}/configs/neg.yaml --config {REPOSITORY}/configs/trainer/{trainer}.yaml".split(),
            *options(tmp_path, str(tiny_student)),
            *f"--trainer.num_nodes {nodes} --trainer.devices {devices} --model.student {tiny_student}".split(),
            *f"--data.train {tmp_path}/t.jsonl --trainer.default_root_dir {tmp_path}/{root}".split(),
            *(stand or []),
        ]

    return make


def options(directory: Path, student: str) -> list[str]:
    """What makes the stage small, and its machines quick to lose patience."""
    write_positive(directory / "t.jsonl", 12)
    return [
        "--data.validation",
        write_positive(directory / "v.jsonl", 3, 1),
        *"--data.batch_size 2 --model.dtype float32 --model.lora.dropout 0.3 --model.warmup_steps 2".split(),
        *"--model.optimizer.init_args.lr 0.01 --trainer.max_epochs 2 --trainer.accelerator cpu".split(),
        *"--trainer.precision 32-true --trainer.enable_progress_bar false".split(),
        *f"--trainer.strategy.init_args.timeout 0:00:{TIMEOUT}".split(),
        *"--trainer.callbacks+=callbacks.checkpoints.RunCheckpoint --trainer.callbacks.every_n_train_steps=2".split(),
    ]


def start(hosts: list[Host], words: list[str], home: Path) -> list[int]:
    """Starts a command line on both hosts; the first is the master."""
    end_monitors()
    started = []
    for host in hosts:
        (home / host.name).mkdir(parents=True, exist_ok=True)
        started.append(fork(host.inside(lambda: cli.main(words), hosts[0].address), home / host.name))
    return started


@pytest.mark.parametrize("trainer", ["multi_node", "fsdp2"])
def test_two_hosts_are_two_processes(hosts: list[Host], words: Words, tmp_path: Path, trainer: str) -> None:
    assert together(lambda: cli.main(words("here", 1, 2, trainer=trainer)), tmp_path / "logs-here") == [0, 0]
    started = start(hosts, words("apart", trainer=trainer), tmp_path / "logs")
    assert [ending(process) for process in started] == [0, 0]
    check_same(tmp_path / "here", tmp_path / "apart")


@pytest.mark.parametrize("lost", [0, 1])
def test_a_host_that_vanishes_and_comes_back(
    hosts: list[Host], words: Words, tmp_path: Path, capfd: pytest.CaptureFixture[str], lost: int
) -> None:
    logs, stands = tmp_path / "logs", tmp_path / "stands"
    assert [ending(process) for process in start(hosts, words("whole"), logs)] == [0, 0]
    stand = [
        *"--trainer.callbacks+=tests.interruptions.Stand --trainer.callbacks.after=9".split(),
        *f"--trainer.callbacks.rank={lost} --trainer.callbacks.file={stands}".split(),
    ]
    processes = start(hosts, words("run", stand=stand), logs)
    wait_for(stands)
    hosts[lost].vanish(processes[lost])
    began = time.monotonic()
    left = 1 - lost
    code, waited = ending(processes[left]), time.monotonic() - began
    said = "".join(capfd.readouterr()) + log_of(logs / hosts[left].name)
    assert code not in (0, 9, -9), said[-3000:]
    assert waited < TIMEOUT + 30
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 8
    hosts[lost].come_back()
    assert [ending(process) for process in start(hosts, words("run"), logs)] == [0, 0]
    assert "resuming from step 8" in "".join(capfd.readouterr()) + log_of(logs / hosts[0].name)
    check_same(tmp_path / "whole", tmp_path / "run")


def test_the_torchrun_script(hosts: list[Host], words: Words, tiny_student: Path, tmp_path: Path) -> None:
    """docs/cluster/torchrun.sh on both hosts, as its header says, with options for a machine without GPUs."""
    assert [ending(process) for process in start(hosts, words("neg-by-fit"), tmp_path / "logs")] == [0, 0]
    (tmp_path / "data").mkdir()
    write_positive(tmp_path / "data/negative.jsonl", 12)
    script = ["bash", str(REPOSITORY / "docs/cluster/torchrun.sh"), *options(tmp_path, str(tiny_student))]
    started = [
        subprocess.Popen(
            ["ip", "netns", "exec", host.name, *script],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": host.link,
                "NODES": "2",
                "GPUS": "1",
                "NODE_RANK": str(host.number),
                "MASTER_ADDR": hosts[0].address,
                "STUDENT": str(tiny_student),
                "RUN": str(tmp_path),
            },
        )
        for host in hosts
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said[0][-3000:] + said[1][-3000:]
    check_same(tmp_path / "neg-by-fit", tmp_path / "neg")


def wait_for(file: Path) -> None:
    last = time.monotonic() + 180
    while not file.exists():
        assert time.monotonic() < last, f"no {file}"
        time.sleep(0.05)
