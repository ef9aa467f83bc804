"""What every stage's config would repeat: settings of the Trainer, callbacks, the tokenizer, the verdicts it trains on.

It also lets a config name our classes without their modules.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning import Callback, LightningModule

import callbacks
import datamodules
import lightning_modules
from dust2gold.core.errors import InputError
from dust2gold.core.students import EMBEDDED
from lightning_modules.base import StudentModule
from lightning_modules.nat import NATModel
from lightning_modules.nce import NCEModel
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

_WRITER = "callbacks.adapters.AdapterWriter"
CALLBACKS: Sequence[tuple[str, type[LightningModule]]] = (
    (_WRITER, TrainableModule),  # adapter/ and adapter-last/
    ("callbacks.checkpoints.RunCheckpoint", TrainableModule),  # checkpoints/last.ckpt, for fit to go on from
    ("callbacks.randomness.RandomStateCheckpoint", TrainableModule),
    ("callbacks.finite.FiniteGuard", TrainableModule),  # stops at a NaN: stopped/step-<n>.pt
    ("callbacks.throughput.TokenThroughput", TrainableModule),
    ("callbacks.samples.SampleWriter", StudentModule),  # predict: samples.jsonl
    ("callbacks.accuracy.AnswerAccuracy", StudentModule),  # test: predictions.jsonl, named after the run's directory
    ("callbacks.token_values.GateWriter", NATModel),  # test: gates.jsonl, α_neg by token of the first answers
    ("callbacks.token_values.BetaWriter", NCEModel),  # fit: betas.jsonl, β by token of the first samples
    ("lightning.pytorch.callbacks.LearningRateMonitor", TrainableModule),
)
"""The callbacks that stages have without naming them, each with the kind of stage that has it."""
_ARGUMENTS: dict[str, Any] = {
    "lightning.pytorch.callbacks.LearningRateMonitor": {"init_args": {"logging_interval": "step"}}
}


def import_stages() -> None:
    """Imports our stages, DataModules and callbacks, so that a config may name their classes without their modules."""
    for package in (callbacks, datamodules, lightning_modules):
        for module in pkgutil.iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")


def with_defaults(config: Namespace) -> Namespace:
    """Fills in, in a copy, what depends on the rest: default callbacks, tokenizer, dtype, length of answers, verdicts.

    Raises:
        InputError: If `without_callbacks` names no default callback, or `adapter` and a given `AdapterWriter` disagree.
    """
    model = config.get("model")
    if not isinstance(model, Namespace):  # a stage that is not named yet, as in `fit --print_config`
        return config
    config = config.clone()
    given = config.trainer.callbacks or []
    given = given if isinstance(given, list) else [given]
    arguments = {**_ARGUMENTS, **({_WRITER: {"init_args": {"monitor": None}}} if config.adapter == "last" else {})}
    without = [*config.without_callbacks, *(["LearningRateMonitor"] if config.trainer.logger is False else [])]
    config.trainer.callbacks = _with_default_callbacks(model.class_path, given, without, arguments)
    for callback in config.trainer.callbacks:
        if callback.class_path == _WRITER and (callback.init_args.monitor is None) != (config.adapter == "last"):
            problem = f"is '{config.adapter}', and AdapterWriter's monitor is {callback.init_args.monitor}"
            raise InputError(
                problem, field="adapter", remedy="give monitor null for the last, or a metric for the best"
            )
    options, stage = config.get("data.init_args"), config.model.get("init_args") or {}
    reads: Any = stage.get("backbone.init_args") or stage  # M_rank names its student there
    if reads.get("dtype", "") is None:
        reads.dtype = "bfloat16" if config.trainer.precision in ("bf16", "bf16-mixed") else "float32"
    if options is not None and options.get("max_new_tokens", "") is None:
        options.max_new_tokens = stage.get("sampling.max_new_tokens")
    if options is not None and options.get("tokenizer", "") is None:
        options.tokenizer = reads.get("student") or reads.get("path") or EMBEDDED
    if options is not None and options.get("verdicts", "") is None:
        options.verdicts = getattr(_imported(model.class_path), "verdicts", None)
    return config


def _with_default_callbacks(
    stage: str, given: list[Namespace], without: Sequence[str], arguments: Mapping[str, Any]
) -> list[Namespace]:
    """Default callbacks with `arguments`, each replaced by given ones of its class, then the other given ones."""
    names = {path: path.rpartition(".")[2] for path, _ in CALLBACKS}
    if unknown := set(without) - set(names.values()):
        remedy = f"they are {', '.join(names.values())}"
        raise InputError(f"no default callback '{min(unknown)}'", field="without_callbacks", remedy=remedy)
    kind = _imported(stage)
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    wanted = [
        {"class_path": path, **arguments.get(path, {})}
        for path, has_it in CALLBACKS
        if isinstance(kind, type) and issubclass(kind, has_it) and names[path] not in without
    ]
    result: list[Namespace] = []
    for default in parser.parse_object({"callbacks": wanted}).callbacks:
        same = [callback for callback in given if _imported(callback.class_path) is _imported(default.class_path)]
        result += same or [default]
    return [*result, *(callback for callback in given if callback not in result)]


def _imported(class_path: str) -> object:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)
