"""The random state that a Lightning checkpoint leaves out."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch


class RandomStateKeeper(L.Callback):
    """Saves torch's random state with a checkpoint and restores it when training goes on, so that dropout repeats.

    With several processes a checkpoint holds rank 0's state; the other ranks go on with a state derived from it.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The current state of the CPU generator and, where there is one, of this process's GPU."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps what `state_dict` saved until training starts."""
        self._state = state_dict

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restores the state after everything that draws numbers while a run is set up."""
        state, self._state = self._state, None
        if state is None:
            return
        if trainer.global_rank > 0:
            torch.manual_seed(int(state["cpu"].sum()) + trainer.global_rank)
            return
        torch.set_rng_state(state["cpu"].cpu())
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"].cpu())
