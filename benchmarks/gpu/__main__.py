"""Checks and measures this project on a CUDA card, or with `--dry-run`, tiny, on a CPU.

    python -m benchmarks.gpu --student models/smollm2-135m-instruct | tee gpu.txt
    python -m benchmarks.gpu --only llama,sample --budget 300

Each step is a process of its own with a time limit: one that fails, hangs or runs out of memory loses nothing of the
others. Figures are printed, and added to OUTPUT/results.jsonl, as they come; the table comes last. What a step's
libraries had to say is in OUTPUT/STEP.log. The exit status is 1 if a check failed or a step did not end well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

STEPS = {  # name → module and seconds it may take; Python alone takes 15 to 25 of them on a cold machine
    "env": ("checks", 60),
    "unit": ("checks", 60),
    "head": ("checks", 120),
    "packing": ("checks", 120),
    "waits": ("checks", 60),
    "sampling": ("checks", 90),
    "stages": ("stages", 240),
    "llama": ("speed", 150),
    "train": ("speed", 120),
    "sample": ("speed", 150),
    "compiled": ("speed", 150),
}
NO_CARD = 2  # exit status
LEAST = 40  # seconds with which a step is begun
GRACE = 10  # seconds that a step has after its deadline to end by itself


def main(words: Sequence[str] | None = None) -> int:
    """Runs the steps one after another, or as their process one of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--budget", type=float, default=1200, metavar="SECONDS", help="for all steps (default: 1200)")
    parser.add_argument("--only", default=",".join(STEPS), metavar="STEPS", help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--student", metavar="DIR", help="SmolLM2, from fetch-smollm2 (default: random weights)")
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)  # makes this process that of the one step
    options = parser.parse_args(words)
    names = options.only.split(",")
    if unknown := set(names) - STEPS.keys():
        parser.error(f"no step is named {', '.join(sorted(unknown))}: choose from {', '.join(STEPS)}")
    return drive(names, options) if options.deadline is None else run(names[0], options)


def run(name: str, options: argparse.Namespace) -> int:
    """One step, in this process."""
    import torch

    from benchmarks.gpu.step import Step

    if not options.dry_run and not torch.cuda.is_available():
        print(
            "torch finds no CUDA card here\n  --dry-run tries everything on the CPU, with tiny sizes", file=sys.stderr
        )
        return NO_CARD
    step = Step(name, options.output, options.deadline, options.dry_run, options.student)
    with step.attempt(name):
        getattr(import_module(f"benchmarks.gpu.{STEPS[name][0]}"), name)(step)
    return 0


def drive(names: Sequence[str], options: argparse.Namespace) -> int:
    """Starts the steps that the budget has time for, and shows the table."""
    end = time.time() + options.budget
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / "results.jsonl"
    results.write_text("", encoding="utf-8")
    try:
        for name in names:
            begun, limit = time.time(), STEPS[name][1] * (10 if options.dry_run else 1)
            limit = min(limit, end - begun - GRACE)
            status: object = "left out" if limit < LEAST else execute(name, begun + limit, options)
            met = None if limit < LEAST else status == 0
            row = {"step": name, "figure": "ended with status", "value": status, "unit": "", "bound": "", "met": met}
            row["note"] = f"{time.time() - begun:.0f} s" if met is not None else "no time left"
            with results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            if met is False:  # what it last said
                log = (options.output / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                print(f"{name} ended with status {status}:", log[-1000:], sep="\n", flush=True)
            if status == NO_CARD:
                break
    finally:
        rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        show_table(rows)
    return int(any(row["met"] is False for row in rows))


def execute(name: str, deadline: float, options: argparse.Namespace) -> int | str:
    """A step in a process of its own, which has all its children with it: the exit status."""
    words = [sys.executable, "-m", "benchmarks.gpu", "--only", name, "--deadline", str(deadline)]
    words += ["--output", str(options.output), *(["--dry-run"] if options.dry_run else [])]
    words += ["--student", options.student] if options.student else []
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    card = {"CUDA_VISIBLE_DEVICES": ""} if options.dry_run else {}
    with (options.output / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(words, stderr=log, env={**os.environ, **offline, **card}, start_new_session=True)
        try:
            return process.wait(deadline + GRACE - time.time())
        except subprocess.TimeoutExpired:
            return "killed: out of time"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def show_table(rows: list[dict[str, Any]]) -> None:
    """All figures, one a line."""
    from benchmarks.harness import show

    met = {True: "yes", False: "NO", None: ""}
    cells = [
        [*(row[k] for k in ("step", "figure", "value", "unit", "bound")), met[row["met"]], row["note"]] for row in rows
    ]
    show(["step", "figure", "value", "unit", "bound", "met", "note"], cells)


if __name__ == "__main__":
    sys.exit(main())
