"""One captured CUDA graph for each shape of a step: a token costs one launch, and not one for each of its kernels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from typing import Any

import torch

from dust2gold.core.errors import reason


def captures(device: torch.device) -> bool:
    """Whether work on this device can be captured; there the host runs ahead of it, too."""
    return device.type == "cuda"


def capture(step: Callable[[], None], pool: Any) -> tuple[Callable[[], None], Any]:
    """Records the kernels of a step without running them: what runs them, and the pool of their memory, for others."""
    graph = torch.cuda.CUDAGraph()
    # The outer context comes back to this stream even if a failed capture does not.
    with (
        torch.cuda.stream(torch.cuda.current_stream()),
        torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),  # loaders' threads may use the device
    ):
        step()
    return graph.replay, graph.pool()


class CapturedSteps:
    """Runs steps that read and write the same tensors each time, and give nothing else.

    The first run of a shape is a plain one: it makes what a capture may not, such as libraries' workspaces, and what
    the step is to find ready, such as autocast's casts of the weights, which live as long as the autocast context. If
    a capture fails, all runs are plain from then on.
    """

    def __init__(self, device: torch.device) -> None:
        self._enabled = captures(device)
        self._pool: Any = None
        self._replays: dict[Hashable, Callable[[], None] | None] = {}

    def run(self, shape: Hashable, step: Callable[[], None]) -> None:
        """One step of tensors of this shape."""
        if not self._enabled or shape not in self._replays:
            self._replays[shape] = None
            return step()
        replay = self._replays[shape]
        if replay is None:
            try:
                replay, self._pool = capture(step, self._pool)
                self._replays[shape] = replay
            except RuntimeError as error:
                self._enabled = False
                self.forget()
                first = error.__context__  # ending a failed capture raises another error
                cause = first if isinstance(first, Exception) else error
                print(f"sampling without CUDA graphs, which is slower: {reason(cause)}", file=sys.stderr)
                return step()
        return replay()

    def forget(self) -> None:
        """The tensors move: what was captured is let go, and its memory."""
        self._replays.clear()
        self._pool = None
