"""Lightning's counters in a checkpoint that goes on with another split of its optimizer steps."""

from __future__ import annotations

from typing import Any

from datamodules.components.batching.sampler import TrainingSampler


def recount(checkpoint: dict[str, Any], epoch: int, sampler: TrainingSampler, by_epochs: bool = True) -> None:
    """Changes the counters to those of a run that had the sampler's split all along; `global_step` stays.

    Lightning counts batches of a rank from the beginning of an epoch, and ends the epoch where they are as many as the
    loader says.

    Args:
        checkpoint: As Lightning wrote it.
        epoch: In which the sampler goes on.
        sampler: Of the training batches, resumed.
        by_epochs: The learning rate's schedule covers a number of epochs, not of steps: it is moved to the same place
            of the whole.
    """
    loop = checkpoint["loops"]["fit_loop"]
    progress = loop["epoch_loop.batch_progress"]
    unfinished = epoch == loop["epoch_progress"]["current"]["ready"] - 1
    shift = (sampler.start if unfinished else len(sampler)) - progress["current"]["processed"]
    for counts in (progress["current"], progress["total"]):
        for name in counts:
            counts[name] += shift
    if not by_epochs:
        return
    steps = (epoch * len(sampler) + sampler.start) // sampler.accumulate
    for schedule in checkpoint.get("lr_schedulers", []):
        schedule["last_epoch"] = steps
