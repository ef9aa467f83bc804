"""What all benchmarks share: variants that alternate in one run, memory by count, a table, targets as JSON.

    options = arguments("What it compares.").parse_args()
    begin(options)
    timings = alternate({"plain": plain_step, "ours": our_step}, rounds=options.rounds or 20)
    show(["variant", "ms", "spread", "x plain"], timing_rows(timings, "plain"))
    finish([Target("ours / plain, time", ratio(timings, "ours", "plain"), 1.10)])

Other users of a machine slow all variants alike while they alternate, so ratios are taken round by round: what a
benchmark claims is the median of those, not a quotient of two runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

MIB = 2**20


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one variant, one entry a round; entries of the same index were measured back to back."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range over the median: 0.02 says that half of the rounds lie within 2%."""
        if len(self.seconds) < 2:
            return 0.0
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (upper - lower) / self.median


@dataclass(frozen=True)
class Target:
    """A figure and the bound it is held against.

    Attributes:
        name: What is measured.
        value: The figure.
        target: The bound.
        at_least: Whether the bound is a lower one; otherwise the value must not exceed it.
    """

    name: str
    value: float
    target: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the value keeps to the bound; a NaN does not."""
        return self.value >= self.target if self.at_least else self.value <= self.target


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has; add your own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller data: ends within a minute")
    parser.add_argument("--rounds", type=int, help="measure each variant this often (default: the benchmark's own)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data")
    return parser


def begin(options: argparse.Namespace) -> None:
    """Sets threads and seed from the options of `arguments` and prints the machine."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    print(f"{machine()}, {date.today().isoformat()}", flush=True)


def machine(device: str = "cpu") -> str:
    """The machine in words: CPU model, usable cores, torch's threads, the GPU if `device` is one, versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{_cpu_model()}, {cores} cores, {torch.get_num_threads()} threads"]
    if torch.device(device).type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    return ", ".join([*parts, f"torch {torch.__version__}", f"Python {platform.python_version()}"])


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def alternate(
    variants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2, device: str = "cpu"
) -> dict[str, Timing]:
    """Times the variants in turn, A B C A B C …, after `warmup` unmeasured rounds.

    Args:
        variants: By name, what to run once per round.
        rounds: How often each is measured.
        warmup: Rounds before the first measurement.
        device: Where they run; a GPU is waited for before the clock is read.

    Raises:
        ValueError: If `rounds` is not positive.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be positive, found {rounds}")
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with _no_collections():
        for number in tqdm(range(-warmup, rounds), desc="rounds", leave=False, dynamic_ncols=True):
            for name, run in variants.items():
                elapsed = _timed(run, device)
                if number >= 0:
                    seconds[name].append(elapsed)
            gc.collect()
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _timed(run: Callable[[], object], device: str) -> float:
    _wait_for(device)
    start = time.perf_counter()
    run()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keeps Python's garbage collector from running inside a measurement."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def ratio(timings: Mapping[str, Timing], name: str, over: str) -> float:
    """Median over the rounds of a variant's time over another's in the same round."""
    pairs = zip(timings[name].seconds, timings[over].seconds, strict=True)
    return statistics.median(a / b for a, b in pairs)


@dataclass
class SavedActivations:
    """What a forward pass keeps for the backward pass, in bytes.

    Each storage counts once, however many operations keep it and whatever part of it they see. Parameters do not count.

    Attributes:
        bytes: The sum so far.
    """

    bytes: int = 0
    _seen: dict[int, torch.UntypedStorage] = field(default_factory=dict, repr=False)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen[storage.data_ptr()] = storage  # held, so that its address is not given out again
            self.bytes += storage.nbytes()
        return tensor


@contextmanager
def saved_activations(parameters: Iterable[Tensor]) -> Iterator[SavedActivations]:
    """Counts what is saved for the backward pass inside the block: run a forward pass in it.

    Args:
        parameters: Tensors whose storages do not count; pass `module.parameters()`, and its buffers.
    """
    counted = SavedActivations()
    counted._seen = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in parameters}
    with torch.autograd.graph.saved_tensors_hooks(counted._keep, lambda tensor: tensor):
        yield counted
    counted._seen.clear()


def peak_memory(run: Callable[[], object], device: str = "cpu") -> int:
    """Runs once and returns the highest number of bytes that torch held at a time beyond what it held before.

    On a GPU the caching allocator's statistics, on the CPU the sum over the allocations that torch's profiler sees:
    exact, and the same on every machine, but blind to what libraries allocate by themselves.
    """
    if torch.device(device).type == "cuda":
        _wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        _wait_for(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = run()
    del result
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def timing_rows(timings: Mapping[str, Timing], over: str) -> list[list[str]]:
    """One row a variant: name, median in ms, spread in %, ratio to the variant `over`."""
    return [
        [name, f"{1e3 * timing.median:.1f}", f"{100 * timing.spread:.1f}%", f"{ratio(timings, name, over):.3f}"]
        for name, timing in timings.items()
    ]


def show(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table in Markdown, columns aligned, so that it can go into docs/performance.md as it is."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    rule = " | ".join("-" * width for width in widths)
    print("\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]]), flush=True)


def finish(targets: Sequence[Target], **more: object) -> None:
    """Says which targets are met and prints, as the last line of stdout, one JSON object.

    Args:
        targets: They become `{"targets": {name: {"value", "target", "met"}}}`.
        more: Further entries of the object, e.g. all medians.
    """
    for t in targets:
        bound = "at least" if t.at_least else "at most"
        print(f"{'met   ' if t.met else 'MISSED'}  {t.name}: {t.value:.3f} ({bound} {t.target:g})")
    found = {
        t.name: {"value": round(t.value, 4) if math.isfinite(t.value) else None, "target": t.target, "met": t.met}
        for t in targets
    }
    print(json.dumps({"targets": found, **more}), flush=True)
