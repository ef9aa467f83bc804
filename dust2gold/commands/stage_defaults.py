"""What every stage's config would repeat: settings of the Trainer, callbacks, the tokenizer, and short class names."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from importlib import import_module

from jsonargparse import ArgumentParser, Namespace
from lightning import Callback, LightningModule
from lightning.pytorch.callbacks import LearningRateMonitor

import callbacks
import datamodules
import lightning_modules
from callbacks.accuracy import AnswerAccuracy
from callbacks.adapters import AdapterWriter
from callbacks.checkpoints import RunCheckpoint
from callbacks.finite import FiniteGuard
from callbacks.randomness import RandomStateKeeper
from callbacks.samples import SampleWriter
from callbacks.throughput import TokenThroughput
from dust2gold.core.errors import InputError
from dust2gold.core.students import EMBEDDED
from lightning_modules.base import StudentModule
from lightning_modules.trainable import TrainableModule

TRAINER = {
    "max_epochs": 3,
    "num_sanity_val_steps": 0,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # our DataModules shard by themselves
}
"""Defaults of the Trainer's arguments where they differ from Lightning's."""

CALLBACKS: Sequence[tuple[type[Callback], type[LightningModule]]] = (
    (AdapterWriter, TrainableModule),  # adapter/ (best val/loss) and adapter-last/
    (RunCheckpoint, TrainableModule),  # checkpoints/last.ckpt, for fit to go on from
    (RandomStateKeeper, TrainableModule),
    (FiniteGuard, TrainableModule),  # stops at a NaN: stopped/step-<n>/
    (TokenThroughput, TrainableModule),
    (SampleWriter, StudentModule),  # predict: samples.jsonl
    (AnswerAccuracy, StudentModule),  # test: predictions.jsonl, named after the run's directory
    (LearningRateMonitor, TrainableModule),
)
"""The callbacks that stages have without naming them, each with the kind of stage that has it."""
_ARGUMENTS = {LearningRateMonitor: {"init_args": {"logging_interval": "step"}}}


def import_stages() -> None:
    """Imports our stages, DataModules and callbacks, so that a config may name their classes without their modules."""
    for package in (callbacks, datamodules, lightning_modules):
        for module in pkgutil.iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")


def with_defaults(config: Namespace) -> Namespace:
    """Fills in what depends on the stage: default callbacks, and the tokenizer, which is the student's.

    Args:
        config: What was parsed of `fit`, `validate`, `test` or `predict`.

    Returns:
        A new config; of one that is complete, an equal one.

    Raises:
        InputError: If `without_callbacks` names no default callback.
    """
    model = config.get("model")
    if not isinstance(model, Namespace):  # a stage that is not named yet, as in `fit --print_config`
        return config
    config = config.clone()
    given = config.trainer.callbacks or []
    given = given if isinstance(given, list) else [given]
    config.trainer.callbacks = _with_default_callbacks(model.class_path, given, config.without_callbacks)
    options = config.get("data.init_args", Namespace())
    if options.get("tokenizer") == EMBEDDED:
        options.tokenizer = _student(model.init_args)
    return config


def _with_default_callbacks(stage: str, given: list[Namespace], without: Sequence[str]) -> list[Namespace]:
    """Default callbacks, each replaced by given ones of its class, then the other given ones."""
    if unknown := set(without) - {callback.__name__ for callback, _ in CALLBACKS}:
        names = ", ".join(callback.__name__ for callback, _ in CALLBACKS)
        raise InputError(f"no default callback '{min(unknown)}'", field="without_callbacks", remedy=f"they are {names}")
    kind = _imported(stage)
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    wanted = [
        {"class_path": callback.__name__, **_ARGUMENTS.get(callback, {})}
        for callback, wanting in CALLBACKS
        if issubclass(kind, wanting) and callback.__name__ not in without
    ]
    result: list[Namespace] = []
    for default in parser.parse_object({"callbacks": wanted}).callbacks:
        same = [callback for callback in given if _imported(callback.class_path) is _imported(default.class_path)]
        result += same or [default]
    return [*result, *(callback for callback in given if callback not in result)]


def _imported(class_path: str) -> type:
    module, _, name = class_path.rpartition(".")
    found: type = getattr(import_module(module), name)
    return found


def _student(stage: Namespace) -> str:
    """The base model of a stage: of M_rank, what its backbone reads with."""
    backbone = stage.get("backbone")
    named = stage if backbone is None else backbone.init_args
    return str(named.get("student") or named.get("path") or EMBEDDED)
