"""What a CUDA graph does, on a CPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_REFUSED = {"_local_scalar_dense", "nonzero", "is_nonzero", "lift_fresh"}
"""What waits for the device, or copies to it from memory that is gone when the graph runs."""


class Recorder(TorchDispatchMode):
    """Keeps operations with their tensors, and runs them again on the same memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        copied = name == "where" and any(isinstance(given, Tensor) and given.dim() == 0 for given in args)
        if name in _REFUSED or copied:
            raise RuntimeError("operation not permitted when stream is capturing")
        for given, parameter in zip(args, func._schema.arguments, strict=False):
            if parameter.alias_info is not None and parameter.alias_info.is_write:
                storage = given.untyped_storage()
                self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        made = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, made))
        return made

    def undo(self) -> None:
        """A capture runs nothing: what the step has written is as it was."""
        for storage, before in self.before.values():
            storage.copy_(before)

    def replay(self) -> None:
        for func, args, kwargs, made in self.calls:
            for old, new in zip(tree_leaves(made), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def record(step: Callable[[], None], pool: Any) -> tuple[Callable[[], None], Any]:
    """In the place of `graphs.capture`."""
    with Recorder() as recorder:
        step()
    recorder.undo()
    return torch.inference_mode()(recorder.replay), "pool"
