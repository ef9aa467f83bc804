"""Whether `fit` goes on from a checkpoint in its directory: only if that was to make the same thing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from callbacks.checkpoint_files import LAST, PREVIOUS, DamagedCheckpointError, is_finished, read_checkpoint
from callbacks.checkpoints import PROVENANCE_KEY
from dust2gold.core.provenance import Provenance
from dust2gold.core.text import say

_OF_THE_TRAINER = (
    "max_epochs",
    "max_steps",
    "precision",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "limit_val_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
)
"""What training depends on."""

_STEP = "batches an optimizer step"
"""Processes × accumulated batches: how the batches of a step are shared out changes nothing."""

_WITHOUT_EFFECT = (
    "encoded",
    "limit_questions",
    "max_new_tokens",
    "max_scored_length",
    "model.cache.directory",
    "num_workers",
    "predict",
    "question_batch_size",
    "questions",
    "sampling",
    "score_batch_size",
    "verdicts",
)
"""Arguments of stages and DataModules that training does not depend on."""


def fit_provenance(config: Mapping[str, Any], processes: int = 1) -> Provenance:
    """What a run of `fit` with so many processes makes its adapter from."""
    trainer = config["trainer"]
    return Provenance.of(
        {
            "seed_everything": config.get("seed_everything"),
            "adapter": config.get("adapter"),
            "model": config.get("model"),
            "data": config.get("data"),
            "trainer": {name: trainer.get(name) for name in _OF_THE_TRAINER},
            _STEP: processes * int(trainer.get("accumulate_grad_batches") or 1),
        },
        without=_WITHOUT_EFFECT,
        libraries=("lightning", "peft", "tokenizers", "torch", "transformers"),
    )


def find_checkpoint(directory: Path, made: Provenance, *, finished: bool = False, others: bool = False) -> Path | None:
    """The checkpoint to go on from, `last.ckpt` or, if that is damaged, the one before it. Says on stderr what it does.

    Args:
        directory: Of the checkpoints.
        made: What the run makes its adapter from.
        finished: Whether a finished run will do, too, if it was to make the same.
        others: Whether any checkpoint will do; what it was trained with otherwise is named.
    """
    for path in (directory / LAST, directory / PREVIOUS):
        if not path.is_file():
            continue
        try:
            checkpoint = read_checkpoint(path)
        except DamagedCheckpointError as error:
            _say(f"warning: {path}: {error.problem}")
            continue
        changed = made.differences(checkpoint.get(PROVENANCE_KEY) or {})
        if not others and ((is_finished(directory) and not finished) or not _fits(changed, path)):
            return None
        _say(f"resuming from step {int(checkpoint['global_step']):,} ({path})")
        if others and changed:
            _say(f"from here on with other settings than it was trained with: {', '.join(changed)}")
        return path
    return None


def _fits(changed: list[str], path: Path) -> bool:
    if changed == [_STEP]:
        return True  # meant to go on: the DataModule refuses, and says which numbers would do
    if changed:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        _say(f"beginning anew: {path} was trained with other settings ({shown}); --ckpt_path last goes on all the same")
    return not changed


@rank_zero_only  # type: ignore[untyped-decorator,unused-ignore]
def _say(text: str) -> None:
    say(text, sys.stderr)
