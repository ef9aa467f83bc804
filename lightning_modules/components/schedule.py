"""Learning-rate schedules by name."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from dust2gold.core.errors import InputError

_TRANSFORMERS_NAMES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def warmed_up(optimizer: Optimizer, name: str, warmup_steps: int, steps: int) -> LambdaLR:
    """A linear warm-up from 0 over `warmup_steps`, then `name` down to 0 at `steps` (or constant).

    Raises:
        InputError: If the name is none of constant, linear, cosine.
    """
    if name not in _TRANSFORMERS_NAMES:
        raise InputError(
            f"unknown schedule '{name}'",
            field="model.schedule",
            remedy=f"choose one of {', '.join(_TRANSFORMERS_NAMES)}",
        )
    return get_scheduler(  # type: ignore[no-any-return]
        _TRANSFORMERS_NAMES[name], optimizer, num_warmup_steps=warmup_steps, num_training_steps=steps
    )
