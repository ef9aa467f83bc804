"""Whether `fit` goes on from a checkpoint of an earlier run in the same directory: if it was to make the same thing.

What a run is to make is a short hash of each of its settings. A path counts by the contents of what it names, so that
a moved file is the same and a changed one is another; files of more than 64 MiB within a directory (the weights of
a base, which loading a checkpoint compares in its own way) count by their names and sizes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from callbacks.checkpoint_files import LAST, PREVIOUS, DamagedCheckpointError, is_finished, read_checkpoint
from callbacks.checkpoints import SETTINGS_KEY
from dust2gold.core.errors import InputError
from dust2gold.core.files import sha256_of
from dust2gold.core.students import EMBEDDED
from dust2gold.core.text import spelled

_OF_THE_TRAINER = (
    "max_epochs",
    "max_steps",
    "precision",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "limit_val_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
)
"""What training depends on; how many processes share the work is not among it."""

_ACCUMULATED, STEP = "trainer.accumulate_grad_batches", "batches an optimizer step"
"""Either may change, with the number of processes: the other then says that nothing else was meant to."""

_WITHOUT_EFFECT = frozenset(
    {
        "encoded",
        "limit_questions",
        "num_workers",
        "predict",
        "question_batch_size",
        "questions",
        "sampling",
        "score_batch_size",
    }
)
"""Arguments of stages and DataModules that training does not depend on."""

_PLACES = frozenset({"model.cache.directory"})
"""Settings that only say where something lies."""

_LATER = frozenset({"model.cache.storage", "model.cache.top_k"})
"""Settings that checkpoints of earlier versions do not hold."""

_LARGE = 64 << 20  # bytes


def run_settings(config: Mapping[str, Any], processes: int = 1) -> dict[str, str]:
    """A short hash of each setting that training depends on, by its name on the command line.

    Args:
        config: That of `fit`.
        processes: That train together.

    Raises:
        InputError: If a file it names cannot be read.
    """
    chosen = {
        "seed_everything": config.get("seed_everything"),
        "model": config.get("model"),
        "data": config.get("data"),
        "trainer": {name: config["trainer"].get(name) for name in _OF_THE_TRAINER},
    }
    step = {STEP: processes * int(config["trainer"].get("accumulate_grad_batches") or 1)}
    return {name: _hash(_content(value)) for name, value in [*_leaves(chosen, ""), *step.items()]}


def find_checkpoint(directory: Path, settings: Mapping[str, str] | None, *, finished: bool = False) -> Path | None:
    """The checkpoint to go on from, `last.ckpt` or, if that is damaged, the one before it. Says on stderr what it does.

    Args:
        directory: Of the checkpoints.
        settings: What the run is to make; None takes any checkpoint, also one of a finished run.
        finished: Whether a finished run will do, too, if it was to make the same.

    Returns:
        None where there is nothing to go on from.

    Raises:
        InputError: If a checkpoint holds code.
    """
    for path in (directory / LAST, directory / PREVIOUS):
        if not path.is_file():
            continue
        try:
            checkpoint = read_checkpoint(path)
        except DamagedCheckpointError as error:
            _say(f"warning: {path}: {error.problem}")
            continue
        if settings is not None and (
            (is_finished(directory) and not finished) or not _fits(checkpoint, settings, path)
        ):
            return None
        _say(f"resuming from step {int(checkpoint['global_step']):,} ({path})")
        return path
    return None


def _fits(checkpoint: dict[str, Any], settings: Mapping[str, str], path: Path) -> bool:
    then: dict[str, str] = checkpoint.get(SETTINGS_KEY) or {}
    names = (settings.keys() | then.keys()) - (_LATER - then.keys())
    changed = sorted(name for name in names if settings.get(name) != then.get(name))
    if changed in ([_ACCUMULATED], [STEP]):
        return True
    if changed:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        _say(f"beginning anew: {path} was trained with other settings ({shown}); --ckpt_path last goes on all the same")
    return not changed


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The settings of a config and their names; `init_args` belongs to no name."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        if key not in _WITHOUT_EFFECT:
            full = name if key == "init_args" else f"{name}.{key}".lstrip(".")
            yield from _leaves(inner, full) if full not in _PLACES else ()


def _content(value: Any) -> Any:
    """A setting with the contents of what it names in the place of paths."""
    if isinstance(value, (list, tuple)):
        return [_content(item) for item in value]
    if not isinstance(value, (str, Path)) or str(value) in ("", EMBEDDED):
        return value
    path = Path(value).expanduser()
    try:
        if path.is_file():
            return sha256_of(path)
        if path.is_dir():
            return [_entry(file, path) for file in sorted(path.rglob("*")) if file.is_file()]
    except OSError as error:
        if os.path.exists(path):  # other than a long text, whose looking up is an error as well
            raise InputError(f"cannot read ({error.strerror})", file=path, remedy="mend its permissions") from error
    return str(value)


def _entry(file: Path, directory: Path) -> list[str]:
    size = file.stat().st_size
    return [file.relative_to(directory).as_posix(), str(size) if size > _LARGE else sha256_of(file)]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


@rank_zero_only  # type: ignore[untyped-decorator,unused-ignore]
def _say(text: str) -> None:
    print(spelled(text), file=sys.stderr)
