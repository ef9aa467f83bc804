"""However an optimizer step is cut into batches, rows and ranks, its gradient is the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.components.records.records import write_rationales
from datamodules.rationales import RationaleDataModule
from lightning_modules.base import StudentModule
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.losses.targets import find_targets
from tests.lightning_modules.steps import quiet_trainer
from tests.records import rationale

pytestmark = pytest.mark.filterwarnings("ignore")

STAGES = ["negative", "nat", "nce"]
LORA = LoraSettings(r=3, alpha=9, dropout=0.0)
ROWS = 22
MakeData = Callable[..., RationaleDataModule]
MakeStage = Callable[[str], StudentModule]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.fixture
def make_stage(make_stage: Callable[..., StudentModule], randomise: Callable[..., None]) -> MakeStage:
    """Builds a stage in float64 with nothing at zero, the same each time."""

    def make(name: str) -> StudentModule:
        module = make_stage(name, lora=LORA, optimizer=sgd)
        randomise(p for p in module.parameters() if p.requires_grad)
        return module.double()

    return make


@pytest.fixture
def make_data(tiny_student: Path, tmp_path: Path) -> MakeData:
    """Rationales of both verdicts and of many lengths, batched as asked."""
    file = tmp_path / "both.jsonl"
    write_rationales(file, [rationale(q, k) for q in range(ROWS // 2) for k in range(2)])

    def make(**options: Any) -> RationaleDataModule:
        return RationaleDataModule(str(tiny_student), str(file), validation_fraction=0.0, **options)

    return make


def loss_and_gradients(module: StudentModule, batch: dict[str, Any]) -> dict[str, Tensor]:
    loss = module.loss_parts(batch, find_targets(batch))["loss"]
    loss.backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


def check_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert any(value.abs().max() > 1e-3 for value in one.values())
    torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("width", [160, 250])
def test_packed_is_padded(make_stage: MakeStage, make_data: MakeData, stage: str, width: int) -> None:
    batches = []
    for options in ({"batch_size": ROWS}, {"batch_size": ROWS, "packing": True, "max_length": width}):
        data = make_data(**options)
        data.setup("fit")
        batches.append(list(data.train_dataloader()))
    [[padded], [packed]] = batches
    assert len(packed["input_ids"]) <= len(padded["input_ids"]) / 2
    assert sorted(packed["ids"]) == sorted(padded["ids"])
    check_equal(*(loss_and_gradients(make_stage(stage), batch) for batch in (padded, packed)))


def fitted(module: StudentModule, data: RationaleDataModule, directory: Path, **trainer: Any) -> dict[str, Tensor]:
    """The trained weights after two epochs."""
    quiet_trainer(directory, precision="64-true", max_epochs=2, **trainer).fit(module, data)
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("options", "accumulate"),
    [
        pytest.param({"batch_size": 4}, 6, id="six batches"),
        pytest.param({"batch_size": 5}, 64, id="a window longer than the epoch"),
        pytest.param({"tokens_per_batch": 250}, 64, id="token budget"),
        pytest.param({"packing": True, "batch_size": 1, "max_length": 200}, 64, id="packing"),
    ],
)
def test_accumulated_is_one_batch_in_one_process_or_two(
    make_stage: MakeStage, make_data: MakeData, tmp_path: Path, options: dict[str, Any], accumulate: int, processes: int
) -> None:
    whole = fitted(make_stage("nce"), make_data(batch_size=ROWS), tmp_path)
    group = {"devices": 2, "strategy": "ddp_fork"} if processes == 2 else {}
    cut = fitted(make_stage("nce"), make_data(**options), tmp_path, accumulate_grad_batches=accumulate, **group)
    check_equal(whole, cut)


def test_two_processes_share_the_losses_of_the_epoch_before(
    make_stage: MakeStage, make_data: MakeData, tmp_path: Path
) -> None:
    whole = fitted(make_stage("glow"), make_data(batch_size=8), tmp_path)
    both = fitted(make_stage("glow"), make_data(batch_size=4), tmp_path, devices=2, strategy="ddp_fork")
    check_equal(whole, both)
