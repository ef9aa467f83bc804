"""The random state that a Lightning checkpoint leaves out."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
import torch

from lightning_modules.components.accuracy import gather_objects


class RandomStateCheckpoint(L.Callback):
    """Saves torch's random state with a checkpoint and restores it when training continues, so that dropout repeats.

    With several processes a checkpoint holds the state of each. Where another number of them continues, each begins
    with a state derived from rank 0's and its own rank, and rank 0 prints so.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The generators' states (CPU, and GPU where there is one) of every process by rank; all must call it."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        return {"ranks": gather_objects({"cpu": torch.get_rng_state(), "cuda": cuda})}

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
