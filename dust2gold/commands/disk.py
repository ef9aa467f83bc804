"""About how much a command writes, for `run --check`: what a disk must hold at the same time, rounded up."""

from __future__ import annotations

from typing import Any

from lightning_modules.base import StudentModule
from lightning_modules.components.distillation.storage import STORAGES
from lightning_modules.nce import NCEModel
from lightning_modules.trainable import TrainableModule

_ADAPTERS, _CHECKPOINTS = 3, 3
"""Of each there are two, and one more while it is written."""
_IN_A_CHECKPOINT = 3
"""A trained number, and AdamW's two moments of it."""
_CHARACTERS, _RECORD = 4, 2000
"""Bytes that a sampled token takes in a record, and those of the record's other fields, its question above all."""


def bytes_written(module: Any, data: Any, verb: str) -> int:
    """About how many bytes a command writes: `fit` adapters, checkpoints and cached targets, `predict` samples.

    The stage is built and its DataModule set up; `data` is None if they are not known.
    """
    if verb == "fit" and isinstance(module, TrainableModule):
        trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
        return trained * (_ADAPTERS + _CHECKPOINTS * _IN_A_CHECKPOINT) + _cached(module, data)
    if verb == "predict" and isinstance(module, StudentModule) and data is not None:
        settings = module.sampling
        samples = len(data.questions) * settings.samples
        return 2 * samples * (_CHARACTERS * settings.max_new_tokens + _RECORD)  # in parts, then joined
    return 0


def _cached(module: TrainableModule, data: Any) -> int:
    """What NCE's teachers keep of each target."""
    if data is None or not isinstance(module, NCEModel) or module.teacher_name != "cached":
        return 0
    config, cache = module.adapters.model.config.get_text_config(), module.cache
    storage = STORAGES[cache.storage](config.vocab_size, config.hidden_size, module.calibrated, cache.top_k)
    return storage.bytes_per_token * int(data.train_examples.targets(data.loss_on_prompt).sum())
