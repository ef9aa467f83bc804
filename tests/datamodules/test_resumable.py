"""The resume position: kept for the same split of a step, converted for another one, refused for another step size."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from datamodules.resumable import ResumableDataModule
from dust2gold.core.errors import InputError

STATE = {"epoch": 1, "batch": 8, "planned": 12, "split": [1, 4]}


def module(world: int, accumulate: int, limit: int | float = 1.0) -> tuple[ResumableDataModule, dict[str, Any]]:
    """A DataModule under a Trainer that has read a checkpoint of `STATE`, and the checkpoint's counters of batches."""
    counters = {"current": {"processed": 8, "completed": 7}, "total": {"processed": 20, "completed": 19}}
    epochs = {"current": {"processed": 1, "ready": 2}}
    checkpoint = {"loops": {"fit_loop": {"epoch_loop.batch_progress": counters, "epoch_progress": epochs}}}
    data: Any = ResumableDataModule(seed=0, num_workers=0)
    data.trainer = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        world_size=world,
        accumulate_grad_batches=accumulate,
        limit_train_batches=limit,
        callbacks=[],
        fit_loop=SimpleNamespace(_data_fetcher=None),
        _checkpoint_connector=SimpleNamespace(_loaded_checkpoint=checkpoint),
    )
    return data, counters


@pytest.mark.parametrize(("world", "accumulate", "batch"), [(1, 4, 8), (2, 2, 4), (4, 1, 2)])
def test_the_position_is_counted_in_batches_of_a_process(world: int, accumulate: int, batch: int) -> None:
    data, counters = module(world, accumulate)
    data.load_state_dict(STATE)
    assert data._state == {**STATE, "batch": batch, "split": [world, accumulate]}
    assert counters["current"] == {"processed": batch, "completed": batch - 1}
    assert counters["total"] == {"processed": 12 + batch, "completed": 11 + batch}


def test_a_step_that_is_not_whole_is_begun_anew_by_another_split() -> None:
    data, _ = module(2, 2)
    data.load_state_dict({**STATE, "batch": 7})
    assert data._state["batch"] == 2


@pytest.mark.parametrize(
    ("split", "limit", "message"),
    [
        ((2, 4), 1.0, r"1 process\(es\) accumulating 4 batch\(es\), 4 an optimizer step; here are 2 .* 8 a step"),
        ((1, 2), 1.0, "processes × accumulated batches = 4"),
        ((2, 2), 5, "epoch cut short"),
    ],
)
def test_another_number_of_batches_a_step_is_refused(split: tuple[int, int], limit: int | float, message: str) -> None:
    data, _ = module(*split, limit=limit)
    with pytest.raises(InputError, match=message):
        data.load_state_dict(STATE)


def test_a_checkpoint_without_a_position_is_refused() -> None:
    with pytest.raises(InputError, match="does not say where in the data it stands"):
        module(1, 4)[0].load_state_dict({"epoch": 1})
