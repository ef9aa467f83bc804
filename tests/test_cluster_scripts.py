"""The scripts of docs/cluster do what they say: run with stand-ins for torchrun and SLURM that note what is asked."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import parse

pytestmark = pytest.mark.filterwarnings("ignore")

REPOSITORY = Path(__file__).parents[1]
TORCHRUN, SLURM = (REPOSITORY / "docs/cluster" / name for name in ("torchrun.sh", "slurm.sbatch"))
Run = Callable[..., tuple[int, dict[str, list[str]]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a script; returns its exit code and the arguments of each stand-in that was called."""
    for name in ("torchrun", "srun", "scontrol"):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > "{tmp_path}/{name}"\nexit "${{{name}_code:-0}}"\n')
        file.chmod(0o755)

    def work(script: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, list[str]]]:
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": str(tmp_path), "STUDENT": "embedded", **environment}
        done = subprocess.run(["bash", str(script), *arguments], cwd=REPOSITORY, env=environment, check=False)
        noted = {name: tmp_path / name for name in ("torchrun", "srun", "scontrol")}
        return done.returncode, {
            name: file.read_text().split("\0")[:-1] for name, file in noted.items() if file.is_file()
        }

    return work


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def trainer_of(words: list[str]) -> dict[str, object]:
    """The Trainer's settings by our own parser, and those that only a GPU could instantiate left as they are."""
    parsed = parse(words[words.index("cli.py") + 1 :])
    assert parsed is not None
    trainer: dict[str, object] = parsed.config["fit"]["trainer"].as_dict()
    return trainer


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


@pytest.mark.parametrize("script", [TORCHRUN, SLURM], ids=lambda script: script.name)
def test_bash_reads_it(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize(
    "environment",
    [{}, {"NODES": "3", "GPUS": "4", "NODE_RANK": "2", "MASTER_ADDR": "host0"}],
    ids=["one machine", "three machines"],
)
def test_torchrun(run: Run, environment: dict[str, str]) -> None:
    code, called = run(TORCHRUN, "--trainer.max_epochs", "7", **environment)
    words = called["torchrun"]
    trainer = trainer_of(words)
    assert code == 0
    assert trainer["num_nodes"] == int(option(words, "--nnodes")) == int(environment.get("NODES", 1))
    assert int(str(trainer["devices"])) == int(option(words, "--nproc-per-node")) == int(environment.get("GPUS", 8))
    assert option(words, "--node-rank") == environment.get("NODE_RANK", "0")
    assert option(words, "--master-addr") == environment.get("MASTER_ADDR", "127.0.0.1")
    assert trainer["max_epochs"] == 7  # what is given to the script overrides it
    assert (trainer["accelerator"], trainer["precision"]) == ("gpu", "bf16-mixed")


def directives() -> dict[str, str]:
    """The options of the `#SBATCH` lines."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SLURM.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == SLURM.read_text(encoding="utf-8").count("\n#SBATCH")
    return dict(found)


def slurm(nodes: str = "") -> dict[str, str]:
    """What SLURM would put into the environment of the script."""
    asked = directives()
    return {
        "SLURM_NNODES": nodes or asked["nodes"],
        "SLURM_NTASKS_PER_NODE": asked["ntasks-per-node"],
        "SLURM_CPUS_PER_TASK": asked["cpus-per-task"],
        "SLURM_JOB_ID": "77",
    }


@pytest.mark.parametrize("nodes", ["", "1"], ids=["as it stands", "--nodes=1"])
def test_slurm_starts_a_task_per_gpu(run: Run, nodes: str) -> None:
    code, called = run(SLURM, **slurm(nodes))
    trainer, asked = trainer_of(called["srun"]), directives()
    assert code == 0
    assert int(str(trainer["devices"])) == int(asked["ntasks-per-node"]) == int(asked["gpus-per-node"])
    assert trainer["num_nodes"] == int(nodes or asked["nodes"])
    assert "scontrol" not in called


def test_slurm_sends_the_signal_to_the_tasks_in_time() -> None:
    asked = directives()
    name, _, seconds = asked["signal"].partition("@")  # with "B:" the batch script alone would hear of it
    assert name == "USR1"
    assert int(seconds) >= 120
    assert "requeue" in asked
    assert asked["open-mode"] == "append"


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (137, False), (138, True), (143, True)])
def test_slurm_requeues_what_was_saved(run: Run, code: int, requeued: bool) -> None:
    returned, called = run(SLURM, **slurm(), srun_code=str(code))
    assert returned == code
    assert called.get("scontrol") == (["requeue", "77"] if requeued else None)


def test_no_student_is_named(run: Run) -> None:
    code, called = run(TORCHRUN, STUDENT="")
    assert (code, called) == (1, {})
