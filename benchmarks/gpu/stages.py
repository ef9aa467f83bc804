"""The method by its command lines on the embedded student: every stage, resuming, DDP, FSDP2; several at a time.

The lines are those of `cli.py run`, a few training steps each, with the card's config laid over them.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
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
    found = dict(run(step, command_lines(step), max(2, min(AS_MANY_AS, (os.cpu_count() or 1) // 2))))
    for name, other, must in (
        ("neg", "neg-again", False),
        ("neg-sure", "neg-resumed", True),
        ("neg", "neg-ddp", False),
    ):
        if found.get(name) and found.get(other):
            root = step.output / "stages"
            where = root / ("neg-stopped" if other == "neg-resumed" else other)
            error = difference(root / name / "adapter-last", where / "adapter-last")
            note = "0: equal to the last bit"
            step.emit(f"weights of {other} and {name}", error, at_most=0.0 if must else None, note=note)


def command_lines(step: Step) -> dict[str, Line]:
    """All of them by name."""
    root, count = step.output / "stages", step.size(30, 4)
    rank_data = ("data/positive.jsonl", "data/negative.jsonl")
    sizes = {"train_questions": step.size(400, 40), "test_questions": step.size(64, 8), "votes": step.size(8, 2)}
    settings = RunSettings(run=str(root), rank_data=rank_data, **sizes)
    make, lines = Commands(settings), {s.name: s.commands for s in [data_stage(settings), *method_stages(settings)]}
    card = "--config configs/trainer/" + step.size("gpu.yaml", "cpu.yaml --trainer.precision bf16-mixed")
    quiet = "--trainer.enable_progress_bar false"
    short = f"{quiet} --trainer.max_steps {count} --trainer.max_epochs -1 --trainer.log_every_n_steps 5"
    sure, dtype = "--trainer.deterministic true", "--model.dtype bfloat16"
    stop = f"--trainer.callbacks+=tests.interruptions.Signal --trainer.callbacks.after={count // 2}"
    one = step.size("", "--trainer.accelerator cpu") + " --trainer.devices 1"

    def negative(name: str, options: str) -> str:
        train = shlex.quote(f"{root}/data/negative.jsonl")
        return f"{make.fit('neg', train, shlex.quote(f'{root}/{name}'), dtype)} {options} {short}"

    def nce(name: str, options: str) -> str:
        train, nat = (shlex.quote(f"{root}/{file}") for file in ("data/positive.jsonl", "nat/adapter"))
        options = f"{dtype} --model.nat {nat} {options}"
        return f"{make.fit('nce', train, shlex.quote(f'{root}/{name}'), options)} {card} {short}"

    answering = f"{card} {quiet}"
    samples, scores, votes = lines["votes"]
    half = f"{card} {sure}"
    return {
        "generate": Line(lines["data"][0]),
        "prepare": Line(lines["data"][1], ("generate",)),
        "prepare-test": Line(lines["data"][2], ("generate",)),
        "neg": Line(negative("neg", card), ("prepare",)),
        "neg-stopped": Line(negative("neg-stopped", f"{half} {stop}"), ("prepare",), STOPPED),
        "nat": Line(f"{lines['nat'][0]} {dtype} {card} {short}", ("neg",)),
        "neg-resumed": Line(f"{negative('neg-stopped', half)} --ckpt_path last", ("neg-stopped",)),
        "nce": Line(nce("nce", "--data.packing true --data.tokens_per_batch 2048"), ("nat",)),
        "rank": Line(f"{lines['rank'][0]} --model.backbone.init_args.dtype bfloat16 {card} {short}", ("prepare",)),
        "samples": Line(f"{samples} {dtype} {answering}", ("nce", "prepare-test")),
        "scores": Line(f"{scores} --model.backbone.init_args.dtype bfloat16 {answering}", ("samples", "rank")),
        "votes": Line(votes, ("scores",)),
        "neg-sure": Line(negative("neg-sure", half), ("prepare",)),
        "neg-again": Line(negative("neg-again", card), ("prepare",)),
        "neg-ddp": Line(negative("neg-ddp", f"--config configs/trainer/ddp.yaml {one}"), ("prepare",)),
        "neg-fsdp2": Line(negative("neg-fsdp2", f"--config configs/trainer/fsdp2.yaml {one}"), ("prepare",)),
        "nat-answers": Line(f"{lines['nat'][1]} {dtype} {answering} {sure}", ("nat", "prepare-test")),
        "nce-cached": Line(nce("nce-cached", "--model.teacher cached --data.num_workers 2"), ("nat",)),
    }


def run(step: Step, lines: dict[str, Line], jobs: int) -> Iterator[tuple[str, bool]]:
    """Runs up to `jobs` at a time until the deadline; emits, and yields, each name with its success as it ends."""
    logs = step.output / "stages" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    waiting, running, done = dict(lines), dict[str, tuple[subprocess.Popen[bytes], float]](), set[str]()
    while time.time() < step.deadline:
        ready = [name for name, line in waiting.items() if done.issuperset(line.needs)]
        for name in ready[: jobs - len(running)]:
            words = [sys.executable, "cli.py", *shlex.split(waiting.pop(name).words)]
            with (logs / f"{name}.txt").open("wb") as log:
                running[name] = subprocess.Popen(words, stdout=log, stderr=log, env=environment), time.time()
        for name, (process, begun) in list(running.items()):
            if process.poll() is not None:
                del running[name]
                success = process.returncode == lines[name].status
                note = "" if success else f", status {process.returncode}, see {logs / name}.txt"
                step.emit(name, success, note=f"{time.time() - begun:.0f} s{note}")
                done |= {name} if success else set()
                yield name, success
        if not running and not any(done.issuperset(line.needs) for line in waiting.values()):
            break
        time.sleep(0.1)
    for name, (process, begun) in running.items():
        process.kill()
        step.emit(name, False, note=f"stopped by the time limit after {time.time() - begun:.0f} s")
    if waiting:
        step.emit("not begun", ", ".join(waiting))


def difference(one: Path, other: Path) -> float:
    """0 where all weights are equal to the last bit, else the largest relative difference."""
    pairs = [(load_file(file), load_file(other / file.relative_to(one))) for file in sorted(one.rglob("*.safetensors"))]
    return max(0.0 if torch.equal(a[key], b[key]) else distance(b[key], a[key]) for a, b in pairs for key in a)
