"""The scripts of docs/cluster do what they say: run with stand-ins for torchrun and SLURM that note what is asked."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import parse
from tests.words import REPOSITORY

pytestmark = pytest.mark.filterwarnings("ignore")

TORCHRUN, SLURM = (REPOSITORY / "docs/cluster" / name for name in ("torchrun.sh", "slurm.sbatch"))
Run = Callable[..., tuple[int, dict[str, list[str]]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a script; returns its exit code and the arguments of each stand-in that was called."""
    monkeypatch.chdir(REPOSITORY)
    stands = ("torchrun", "srun", "scontrol")
    (tmp_path / "bin").mkdir()
    for name in stands:
        file = tmp_path / "bin" / name
        file.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > "{tmp_path}/{name}"\nexit "${{{name}_code:-0}}"\n')
        file.chmod(0o755)

    def work(script: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, list[str]]]:
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": str(tmp_path), "STUDENT": "embedded", **environment}
        done = subprocess.run(["bash", str(script), *arguments], env=environment, check=False)
        called = [name for name in stands if (tmp_path / name).is_file()]
        return done.returncode, {name: (tmp_path / name).read_text().split("\0")[:-1] for name in called}

    return work


def trainer_of(words: list[str]) -> Any:
    """The Trainer's settings by our own parser, and those that only a GPU could instantiate left as they are."""
    parsed: Any = parse(words[words.index("cli.py") + 1 :])
    return parsed.config["fit"]["trainer"].as_dict()


@pytest.mark.parametrize("given", [{}, {"NODES": "3", "GPUS": "4", "NODE_RANK": "2", "MASTER_ADDR": "host0"}])
def test_torchrun(run: Run, given: dict[str, str]) -> None:
    code, called = run(TORCHRUN, "--trainer.max_epochs", "7", **given)
    words = called["torchrun"]
    expected = {"NODES": "1", "GPUS": "8", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", **given}
    options = ("--nnodes", "--nproc-per-node", "--node-rank", "--master-addr")
    assert code == 0
    assert [words[words.index(option) + 1] for option in options] == list(expected.values())
    trainer = trainer_of(words)
    assert (str(trainer["num_nodes"]), str(trainer["devices"])) == (expected["NODES"], expected["GPUS"])
    assert trainer["max_epochs"] == 7  # what is given to the script overrides it
    assert (trainer["accelerator"], trainer["precision"]) == ("gpu", "bf16-mixed")


SCRIPT = SLURM.read_text(encoding="utf-8")
ASKED = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SCRIPT, re.MULTILINE))
# What SLURM would put into the environment of the script.
IN_A_JOB = {f"SLURM_{name.upper().replace('-', '_')}": ASKED[name] for name in ("ntasks-per-node", "cpus-per-task")}
IN_A_JOB |= {"SLURM_NNODES": ASKED["nodes"], "SLURM_JOB_ID": "77"}


@pytest.mark.parametrize("nodes", [ASKED["nodes"], "1"], ids=["as it stands", "--nodes=1"])
def test_slurm_starts_a_task_per_gpu(run: Run, nodes: str) -> None:
    code, called = run(SLURM, **{**IN_A_JOB, "SLURM_NNODES": nodes})
    trainer = trainer_of(called["srun"])
    assert code == 0
    assert str(trainer["devices"]) == ASKED["ntasks-per-node"] == ASKED["gpus-per-node"]
    assert str(trainer["num_nodes"]) == nodes
    assert "scontrol" not in called


def test_slurm_sends_the_signal_to_the_tasks_in_time() -> None:
    assert len(ASKED) == SCRIPT.count("\n#SBATCH")
    name, _, seconds = ASKED["signal"].partition("@")  # with "B:" the batch script alone would hear of it
    assert (name, ASKED["open-mode"], "requeue" in ASKED) == ("USR1", "append", True)
    assert int(seconds) >= 120


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (137, False), (138, True), (143, True)])
def test_slurm_requeues_what_was_saved(run: Run, code: int, requeued: bool) -> None:
    returned, called = run(SLURM, **IN_A_JOB, srun_code=str(code))
    assert returned == code
    assert called.get("scontrol") == (["requeue", "77"] if requeued else None)


def test_no_student_is_named(run: Run) -> None:
    code, called = run(TORCHRUN, STUDENT="")
    assert (code, called) == (1, {})
