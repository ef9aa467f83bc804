"""What every step of `benchmarks.gpu` works with: its sizes, its deadline, and where its figures go."""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.harness import guarded

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One step, in a process of its own.

    Attributes:
        name: Its name.
        output: The directory of results.jsonl, logs and whatever the step writes.
        deadline: When it must begin nothing more, as `time.time()` counts.
        dry: Whether to use tiny sizes on the CPU.
        student: The directory of a real SmolLM2, if there is one.
    """

    name: str
    output: Path
    deadline: float
    dry: bool = False
    student: str | None = None

    @property
    def device(self) -> str:
        """Where it computes."""
        return "cpu" if self.dry else "cuda"

    def size(self, full: T, tiny: T) -> T:
        """One of two sizes."""
        return tiny if self.dry else full

    def autocast(self, dtype: torch.dtype = torch.bfloat16) -> AbstractContextManager[object]:
        """Autocast to bfloat16; nothing for another type."""
        return torch.autocast(self.device, dtype) if dtype == torch.bfloat16 else nullcontext()

    def emit(
        self,
        figure: str,
        value: object,
        unit: str = "",
        at_most: float | None = None,
        at_least: float | None = None,
        note: str = "",
    ) -> None:
        """Prints a figure and adds it to results.jsonl, at once. A truth value, or one with a bound, is a check."""
        met, bound = (value, "") if isinstance(value, bool) else (None, "")
        number = value if isinstance(value, int | float) else math.nan
        if at_most is not None:
            met, bound = number <= at_most, f"<= {at_most:g}"
        if at_least is not None:
            met, bound = number >= at_least, f">= {at_least:g}"
        if isinstance(value, float):
            value = float(f"{value:.4g}") if math.isfinite(value) else str(value)
        row = {
            "step": self.name,
            "figure": figure,
            "value": value,
            "unit": unit,
            "bound": bound,
            "met": met,
            "note": note,
        }
        with (self.output / "results.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        print("  ".join(str(part) for part in (self.name, figure, value, unit, bound, note) if part != ""), flush=True)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """A part that fails, or runs out of memory, alone."""
        try:
            with guarded(name, self.device, lambda _: self.emit(name, "out of memory")):
                yield
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            self.emit(name, False, note=f"{type(error).__name__}: {str(error)[:160]}")

    def in_time(self, parts: Iterable[T]) -> Iterator[T]:
        """The parts, until the deadline."""
        for part in parts:
            if time.time() > self.deadline:
                self.emit("stopped by its time limit before", str(part))
                return
            yield part


def distance(found: Tensor, exact: Tensor) -> float:
    """How far a tensor is from the exact one, relative to that one's norm."""
    found, exact = found.detach().double().cpu(), exact.detach().double().cpu()
    return float((found - exact).norm() / exact.norm())
