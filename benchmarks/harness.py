"""What all benchmarks share: variants that alternate in one run, memory by count, a table, targets as JSON.

    options = arguments("What it compares.").parse_args()
    begin(options)
    timings = alternate({"plain": plain_step, "ours": our_step}, rounds=options.rounds or 20)
    show_timings(timings, "plain")
    finish([Target("ours / plain, time", ratio(timings, "ours", "plain"), 1.10)])

Other users of a machine slow all variants alike while they alternate, so a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import math
import os
import platform
import statistics
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

MIB = 2**20


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one variant, one entry a round."""

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
    """A measured figure and its bound: an upper one, or a lower one if `at_least`."""

    name: str
    value: float
    target: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the value keeps to the bound; a NaN does not."""
        return self.value >= self.target if self.at_least else self.value <= self.target


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller data: ends within a minute")
    parser.add_argument("--rounds", type=int, help="measure each variant this often (default: the benchmark's own)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data")
    return parser


def begin(options: argparse.Namespace) -> None:
    """Sets threads and seed from the options of `arguments` and prints the machine, with the GPU of `--device`."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device, info = getattr(options, "device", "cpu"), Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    parts = [models[0] if models else platform.machine(), f"{len(os.sched_getaffinity(0))} cores"]
    parts.append(f"{options.threads} threads")
    if torch.device(device).type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    parts += [f"torch {torch.__version__}", f"Python {platform.python_version()}", date.today().isoformat()]
    print(", ".join(parts), flush=True)


def alternate(
    variants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2, device: str = "cpu"
) -> dict[str, Timing]:
    """Times the variants in turn, A B C A B C …, after `warmup` unmeasured rounds.

    Python's garbage collector runs between rounds only; a GPU is waited for before the clock is read.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    gc.disable()
    try:
        for number in tqdm(range(-warmup, rounds), desc="rounds", leave=False, dynamic_ncols=True):
            for name, run in variants.items():
                _synchronize(device)
                start = time.perf_counter()
                run()
                _synchronize(device)
                if number >= 0:
                    seconds[name].append(time.perf_counter() - start)
            gc.collect()
    finally:
        gc.enable()
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def groups(names: Sequence[str], device: str) -> list[Sequence[str]]:
    """Which variants are built and measured at a time: all, or on a GPU each alone, with the memory to itself."""
    return [[name] for name in names] if torch.device(device).type == "cuda" else [names]


@contextmanager
def guarded(name: str, device: str, tell: Callable[[str], object] = print) -> Iterator[None]:
    """Ends a part that runs out of GPU memory, it alone, with a line; frees what a part held."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # their tensors
        tell(f"{name}: out of memory")
    finally:
        gc.collect()
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()


def ratio(timings: Mapping[str, Timing], name: str, over: str) -> float:
    """Median over the rounds of a variant's time over another's in the same round; NaN where one was not measured."""
    if not {name, over} <= timings.keys():
        return math.nan
    pairs = zip(timings[name].seconds, timings[over].seconds, strict=True)
    return statistics.median(a / b for a, b in pairs)


def saved_activations(forward: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Bytes that a forward pass saves for the backward pass, without `weights`; each storage counts once."""
    known = {w.untyped_storage().data_ptr() for w in weights}
    saved: dict[int, torch.UntypedStorage] = {}  # holds the storages, so that no address is given out twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in saved.values())


def peak_memory(run: Callable[[], object], device: str = "cpu") -> int:
    """Runs once and returns the most bytes that torch held at a time beyond what it held before.

    On a GPU by the caching allocator's statistics; on the CPU by the allocations that torch's profiler sees: exact, but
    without what libraries allocate by themselves.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
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


@contextmanager
def host_waits(device: str = "cpu") -> Iterator[Counter[str]]:
    """Counts where the block makes the host wait for the device, by module or by file and line.

    On a GPU as torch warns of it. On a CPU nothing waits: counted is what would, reading a tensor's values (`item`,
    `tolist`, `cpu`, …) and operations whose result's shape depends on them.
    """
    found: Counter[str] = Counter()
    if torch.device(device).type == "cuda":
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                yield found
            synchronising = (w for w in warned if "synchronizing CUDA" in str(w.message))
            found.update(f"{Path(w.filename).name}:{w.lineno}" for w in synchronising)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return

    def counted(method: Any) -> Any:
        @functools.wraps(method)
        def read(*args: Any, **kwargs: Any) -> Any:
            found[_caller()] += 1
            return method(*args, **kwargs)

        return read

    reads = {name: counted(getattr(Tensor, name)) for name in ("tolist", "cpu", "numpy")}
    with patch.multiple(Tensor, **reads), _Reads(found):
        yield found


class _Reads(TorchDispatchMode):
    """Counts operations that give the host a tensor's values, or a shape that depends on them."""

    names = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_consecutive"})

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if name in self.names or any(mask is not None and mask.dtype == torch.bool for mask in masks):
            self.found[_caller()] += 1
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """The innermost module outside torch and this one."""
    frame = sys._getframe(1)
    while frame.f_globals["__name__"].partition(".")[0] == "torch" or frame.f_globals["__name__"] == __name__:
        assert frame.f_back is not None
        frame = frame.f_back
    return str(frame.f_globals["__name__"])


def show_timings(timings: Mapping[str, Timing], over: str) -> None:
    """Prints one row a variant: name, median in ms, spread in %, ratio to the variant `over`."""
    rows = [
        [name, f"{1e3 * t.median:.1f}", f"{100 * t.spread:.1f}%", f"{ratio(timings, name, over):.3f}"]
        for name, t in timings.items()
    ]
    show(["variant", "ms", "spread", f"x {over}"], rows)


def show(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints an aligned Markdown table."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    rule = " | ".join("-" * width for width in widths)
    print("\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]]), flush=True)


def finish(targets: Sequence[Target], **more: object) -> None:
    """Prints which targets are met and, as the last line, `{"targets": {name: {"value", "target", "met"}}, **more}`."""
    for t in targets:
        bound = "at least" if t.at_least else "at most"
        print(f"{'met   ' if t.met else 'MISSED'}  {t.name}: {t.value:.3f} ({bound} {t.target:g})")
    found = {
        t.name: {"value": round(t.value, 4) if math.isfinite(t.value) else None, "target": t.target, "met": t.met}
        for t in targets
    }
    print(json.dumps({"targets": found, **more}), flush=True)
