"""The random state that a Lightning checkpoint leaves out."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
import torch


class RandomStateKeeper(L.Callback):
    """Saves torch's random state with a checkpoint and restores it when training goes on, so that dropout repeats.

    With several processes a checkpoint holds the state of each. Where another number of them goes on, each begins
    with a state derived from rank 0's and its own rank, and rank 0 says so.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The states of the CPU generator and, where there is one, of its GPU, of every process in the order of ranks.

        All processes must call it together, as Lightning's do when it saves a checkpoint.
        """
        own = {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        }
        states: list[Any] = [own]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            states = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, own)
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps what `state_dict` saved until training starts."""
        self._states = state_dict["ranks"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restores the state after everything that draws numbers while a run is set up."""
        states, self._states = self._states, []
        if not states:
            return
        if len(states) != trainer.world_size:
            torch.manual_seed(int(states[0]["cpu"].sum()) + trainer.global_rank)
            if trainer.is_global_zero:
                print(
                    f"the checkpoint is of {len(states)} processes, here are {trainer.world_size}:"
                    " dropout draws other numbers from here on",
                    file=sys.stderr,
                )
            return
        own = states[trainer.global_rank]
        torch.set_rng_state(own["cpu"].cpu())
        if own["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["cuda"].cpu())
