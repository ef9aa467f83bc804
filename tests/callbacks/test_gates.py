"""GateMonitor against α_neg computed by hand from what enters and leaves a layer."""

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import pytest
import torch
from torch import Tensor

from callbacks.gates import GateMonitor
from datamodules.rationales import RationaleDataModule
from lightning_modules.components.adapters.nat import UnitSettings
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.integration.step_batch import StepBatch
from lightning_modules.components.integration.unit import IntegrationUnit
from lightning_modules.nat import NATModel
from tests.records import write_held, write_positive


@pytest.fixture
def nat(student_model: Any, tiny_student: Path, tmp_path: Path) -> NATModel:
    """A NAT with random weights everywhere, so that its gates are far from zero."""
    torch.manual_seed(0)
    negative = student_model()
    negative.configure_model()
    randomise(negative)
    (tmp_path / "negative").mkdir()
    negative.write_adapter(tmp_path / "negative")
    units, lora = UnitSettings(key_dim=4, bottleneck=6), LoraSettings(r=3, alpha=6, dropout=0.0)
    module = NATModel(str(tmp_path / "negative"), units, student=str(tiny_student), lora=lora)
    module.configure_model()
    randomise(module)
    return module


@torch.no_grad()
def randomise(module: L.LightningModule) -> None:
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.normal_(0, 0.5)


@pytest.fixture
def data(tiny_student: Path, tmp_path: Path) -> RationaleDataModule:
    train, held = write_positive(tmp_path / "p.jsonl", 4, 2), write_held(tmp_path / "v.jsonl", 4, 2)
    return RationaleDataModule(str(tiny_student), train, validation=held, batch_size=4, eval_batch_size=5)


class Batches(L.Callback):
    """Keeps the batches of a training."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch)


@torch.no_grad()
def gates_by_hand(module: NATModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """α_neg of each layer at the real tokens, in the paper's own form: softmax of the two scaled scores, minus 0.5."""
    inputs: dict[str, tuple[Tensor, Tensor]] = {}
    layers = module.adapters.lora_layers("positive")
    hooks = [
        layer.base_layer.register_forward_hook(
            lambda _, args, output, path=path: inputs.__setitem__(path, (args[0].double(), output.double()))
        )
        for path, layer in layers.items()
    ]
    module.eval()
    module.adapters(batch["input_ids"], batch["attention_mask"])
    for hook in hooks:
        hook.remove()
    real, alphas = batch["attention_mask"].bool(), {}
    for path, layer in layers.items():
        (x, y), gate = inputs[path], cast(IntegrationUnit, module.units[path.replace(".", "/")]).gate
        assert gate is not None
        branches = [
            y + layer.scaling[name] * x @ layer.lora_A[name].weight.double().T @ layer.lora_B[name].weight.double().T
            for name in ("positive", "negative")
        ]
        query = x @ gate.query.weight.double().T
        scores = torch.stack([(query * (h @ gate.key.weight.double().T)).sum(-1) for h in branches], -1)
        scores = scores / math.sqrt(query.shape[-1])
        alphas[path.removeprefix("base_model.model.")] = (scores.softmax(-1)[..., 1] - 0.5)[real]
    return alphas


def no_hooks(module: NATModel) -> bool:
    hooks = [hook for child in module.modules() for hook in child._forward_hooks.values()]
    return all(isinstance(getattr(hook, "__self__", None), StepBatch) for hook in hooks)  # NAT's own on the decoder


def test_gates_of_a_training(nat: NATModel, data: RationaleDataModule, make_trainer: Any, events: Any) -> None:
    """At a learning rate of almost 0 all steps have the same gates."""
    nat.optimizer = partial(torch.optim.SGD, lr=1e-30)
    seen = Batches()
    settings = {"max_steps": 9, "max_epochs": -1, "log_every_n_steps": 2, "accumulate_grad_batches": 2}
    make_trainer(GateMonitor(), seen, **settings, limit_val_batches=0).fit(nat, data)
    assert no_hooks(nat)
    logged = events()
    means = logged.Scalars("gate/alpha_neg_mean")
    assert [each.step for each in means] == [each.step for each in logged.Scalars("train/loss")] == [1, 3, 5, 7]
    first = seen.batches[2]  # of step 1
    assert (first["attention_mask"] == 0).any()  # there is padding to leave out
    expected = gates_by_hand(nat, first)
    assert len(expected) == 4
    for path, alpha in expected.items():
        assert 0.05 < alpha.abs().max() <= 0.5
        histogram = logged.Histograms(f"gate/alpha_neg/{path}")[0].histogram_value
        assert histogram.num == first["attention_mask"].sum() == len(alpha)
        mean = logged.Scalars(f"gate/alpha_neg_mean/{path}")[0]
        found = [histogram.min, histogram.max, mean.value]
        assert found == pytest.approx([alpha.min().item(), alpha.max().item(), alpha.mean().item()], abs=1e-4)
    overall = torch.stack([alpha.mean() for alpha in expected.values()]).mean().item()
    assert means[0].value == pytest.approx(overall, abs=1e-4)
    beyond = (torch.cat(list(expected.values())).abs() > 0.45).double().mean().item()
    assert 0 < beyond < 1
    assert logged.Scalars("gate/saturation")[0].value == pytest.approx(beyond, abs=0.02)


def test_no_gates(nat: NATModel, student_model: Any, data: RationaleDataModule, make_trainer: Any, events: Any) -> None:
    monitor = GateMonitor()
    for module, more in ((nat, {"logger": False}), (nat, {"log_every_n_steps": 0}), (student_model(), {})):
        make_trainer(monitor, max_steps=1, **more).fit(module, data)
    assert no_hooks(nat)
    assert not events().Tags()["histograms"]
