"""The method by its command lines on the embedded student: every stage, resuming, DDP, FSDP2; several at a time.

The lines are those of `cli.py run`, a few training steps each, with the card's config laid over them.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shlex import quote
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from benchmarks.gpu.step import Step, distance
from dust2gold.run.method import Commands, data_stage, method_stages
from dust2gold.run.settings import RunSettings

AS_MANY_AS = 8  # command lines at a time, two cores each
STOPPED = 143  # exit status after SIGTERM


class Line(NamedTuple):
    """A command line of `cli.py`, the lines that must have ended before, and the exit status of a success."""

    words: str
    needs: tuple[str, ...] = ()
    status: int = 0


def stages(step: Step) -> None:
    """Runs all command lines, each as soon as what it needs is there, and compares the weights that should be equal."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        root, jobs = Path(directory), max(2, min(AS_MANY_AS, (os.cpu_count() or 1) // 2))
        found = dict(run(step, command_lines(step, root), jobs))
        if found.get("neg-resumed") and found.get("neg-sure"):
            difference(step, root, "neg-stopped", "neg-sure", 0.0)
        if found.get("neg-ddp") and found.get("neg"):
            difference(step, root, "neg-ddp", "neg")


def difference(step: Step, root: Path, name: str, other: str, bound: float | None = None) -> None:
    """Emits 0 where all weights are equal to the last bit, else the largest relative difference."""
    one, two = (root / each / "adapter-last" for each in (name, other))
    pairs = [(load_file(file), load_file(two / file.relative_to(one))) for file in sorted(one.rglob("*.safetensors"))]
    worst = max(0.0 if torch.equal(a[key], b[key]) else distance(a[key], b[key]) for a, b in pairs for key in a)
    step.emit(f"weights of {name} and {other}", worst, at_most=bound, note="0: equal to the last bit")


def command_lines(step: Step, root: Path) -> dict[str, Line]:
    """All of them by name; what most others wait for stands first."""
    count = step.size(30, 4)
    settings = RunSettings(
        run=str(root),
        votes=step.size(8, 2),
        rank_data=("data/positive.jsonl", "data/negative.jsonl"),
        train_questions=step.size(400, 40),
        test_questions=step.size(64, 8),
    )
    make, of = Commands(settings), {s.name: s.commands for s in [data_stage(settings), *method_stages(settings)]}
    card = "--config configs/trainer/" + step.size("gpu.yaml", "cpu.yaml --trainer.precision bf16-mixed")
    quiet, dtype, sure = "--trainer.enable_progress_bar false", "--model.dtype bfloat16", "--trainer.deterministic true"
    card, one = f"{card} {quiet}", f"{step.size('', '--trainer.accelerator cpu')} --trainer.devices 1 {quiet}"
    short = f"--trainer.max_steps {count} --trainer.max_epochs -1 --trainer.log_every_n_steps 5"
    stop = f"--trainer.callbacks+=tests.interruptions.Signal --trainer.callbacks.after={count // 2}"
    rank_dtype, teacher = "--model.backbone.init_args.dtype bfloat16", f"--model.nat {quote(f'{root}/nat/adapter')}"

    cached = "--model.teacher cached --data.num_workers 2"

    def fit(stage: str, data: str, name: str, options: str) -> str:
        train = quote(f"{root}/data/{data}.jsonl")
        return f"{make.fit(stage, train, quote(f'{root}/{name}'), dtype)} {options} {short}"

    neg, nce = partial(fit, "neg", "negative"), partial(fit, "nce", "positive")
    return {
        "generate": Line(of["data"][0]),
        "prepare": Line(of["data"][1], ("generate",)),
        "prepare-test": Line(of["data"][2], ("generate",)),
        "neg": Line(neg("neg", card), ("prepare",)),
        "neg-stopped": Line(neg("neg-stopped", f"{card} {sure} {stop}"), ("prepare",), STOPPED),
        "nat": Line(f"{of['nat'][0]} {dtype} {card} {short}", ("neg",)),
        "neg-resumed": Line(neg("neg-stopped", f"{card} {sure} --ckpt_path last"), ("neg-stopped",)),
        "nce": Line(nce("nce", f"{card} {teacher} --data.packing true --data.tokens_per_batch 2048"), ("nat",)),
        "rank": Line(f"{of['rank'][0]} {rank_dtype} {card} {short}", ("prepare",)),
        "samples": Line(f"{of['votes'][0]} {dtype} {card}", ("nce", "prepare-test")),
        "scores": Line(f"{of['votes'][1]} {rank_dtype} {card}", ("samples", "rank")),
        "votes": Line(of["votes"][2], ("scores",)),
        "neg-sure": Line(neg("neg-sure", f"{card} {sure}"), ("prepare",)),
        "neg-ddp": Line(neg("neg-ddp", f"--config configs/trainer/ddp.yaml {one}"), ("prepare",)),
        "neg-fsdp2": Line(neg("neg-fsdp2", f"--config configs/trainer/fsdp2.yaml {one}"), ("prepare",)),
        "nat-answers": Line(f"{of['nat'][1]} {dtype} {card} {sure}", ("nat", "prepare-test")),
        "nce-cached": Line(nce("nce-cached", f"{card} {teacher} {cached}"), ("nat",)),
    }


def run(step: Step, lines: dict[str, Line], jobs: int) -> Iterator[tuple[str, bool]]:
    """Runs up to `jobs` at a time until the deadline; emits, and yields, each name with its success as it ends."""
    logs = step.output / "stages"
    logs.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    waiting, running, done = dict(lines), dict[str, tuple[subprocess.Popen[bytes], float]](), set[str]()
    while time.time() < step.deadline:
        ready = [name for name, line in waiting.items() if done.issuperset(line.needs)]
        for name in ready[: jobs - len(running)]:
            words = [sys.executable, "cli.py", *shlex.split(waiting.pop(name).words)]
            with (logs / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen(words, stdout=log, stderr=log, env=environment), time.time()
        for name, (process, begun) in list(running.items()):
            if process.poll() is not None:
                del running[name]
                success = process.returncode == lines[name].status
                note = "" if success else f", status {process.returncode}, see {logs / name}.log"
                step.emit(name, success, note=f"{time.time() - begun:.0f} s{note}")
                done |= {name} if success else set()
                yield name, success
        if not running and not any(done.issuperset(line.needs) for line in waiting.values()):
            break
        time.sleep(0.1)
    for name, (process, begun) in running.items():
        process.kill()
        process.wait()
        step.emit(name, False, note=f"stopped by the time limit after {time.time() - begun:.0f} s")
    if waiting:
        step.emit("not begun", ", ".join(waiting))
