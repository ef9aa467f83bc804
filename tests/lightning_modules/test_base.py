"""What holds for every stage that trains a decoder: what moves, what is saved, what resumes, what is answered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from dust2gold.core.errors import InputError
from lightning_modules.base import STUDENT
from lightning_modules.components.adapters.nat import POSITIVE, UnitSettings
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.nat import NATModel
from lightning_modules.trainable import TrainableModule
from tests.lightning_modules.steps import held_out_parts, loader, quiet_trainer, train

STAGES = ["negative", "nat", "nce", "refinement"]
BASELINES = ["nt", "ul", "ul-token", "redi", "dpo", "kto", "cl", "glow"]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", [*STAGES, *BASELINES])
def test_the_loss_falls_and_only_what_should_trains(make_stage: Any, pairs: dict[str, Any], name: str) -> None:
    module = make_stage(name)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    first = held_out_parts(module, pairs)
    train(module, pairs, 15)
    last = held_out_parts(module, pairs)
    assert last["loss"] < first["loss"] - 0.05  # NCE has a floor: its teacher is close to uniform here
    assert all(part.isfinite() and part.ndim == 0 for part in last.values())
    if name not in ("cl", "glow", *STAGES):  # CL leaves the likelihood of wrong rationales alone, GLOW raises it
        margins = [parts["positive_logprob"] - parts["negative_logprob"] for parts in (first, last)]
        assert margins[1] > margins[0] + 0.05
    moved = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    own = f".{POSITIVE if name == 'nat' else STUDENT}."
    assert moved == {n for n in before if own in n or (name == "nat" and n.startswith("units."))}


@pytest.mark.parametrize("name", STAGES)
def test_gradient_checkpointing_changes_no_gradient(
    make_stage: Any, make_batch: Any, randomise: Callable[..., None], name: str
) -> None:
    found = []
    for checkpointing in (False, True):
        module = make_stage(name, gradient_checkpointing=checkpointing)
        randomise(p for p in module.parameters() if p.requires_grad)
        torch.manual_seed(1)  # of dropout, which comes back as it was
        module.training_step(make_batch(), 0).backward()
        found.append({n: p.grad for n, p in module.named_parameters() if p.grad is not None})
        layers = module.adapters.base.get_decoder().layers
        assert {layer.gradient_checkpointing for layer in layers} == {checkpointing}
    assert all(gradient.abs().max() > 0 for gradient in found[0].values())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


class Paced(TrainableModule):
    """One weight, and the learning rate of each optimizer step."""

    def __init__(self, schedule: str, warmup_steps: int) -> None:
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=0.5), schedule, warmup_steps)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def rates_by_epoch(epochs: int, steps: int) -> list[float]:
    """Of torch's cosine, stepped by epoch down to 2%."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs, eta_min=0.02 * 0.5)
    rates = []
    for _ in range(epochs):
        rates += [float(scheduler.get_last_lr()[0])] * steps
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "warmup", "limits", "expected"),
    [
        ("linear", 2, {"max_epochs": 2}, [0, 0.25, 0.5, 0.375, 0.25, 0.125]),
        ("constant", 0, {"max_epochs": 1}, [0.5] * 3),
        ("cosine_by_epoch", 0, {"max_epochs": 5}, rates_by_epoch(5, 3)),
        ("cosine_by_epoch", 2, {"max_epochs": 3}, [0, 0.25, *rates_by_epoch(3, 3)[2:]]),
        ("cosine_by_epoch", 0, {"max_steps": 7}, rates_by_epoch(3, 3)[:7]),
    ],
)
def test_learning_rates(
    schedule: str, warmup: int, limits: dict[str, int], expected: list[float], tmp_path: Path
) -> None:
    """Five batches an epoch, two an optimizer step: the third step of an epoch has one."""
    module = Paced(schedule, warmup)
    quiet_trainer(tmp_path, accumulate_grad_batches=2, **limits).fit(module, loader(*range(5)))
    assert module.rates == pytest.approx(expected)


def test_units_may_have_a_learning_rate_of_their_own(make_stage: Any) -> None:
    plain, factored = (make_stage("nat", units=UnitSettings(6, 10, lr_factor=factor)) for factor in (1.0, 0.25))
    [whole], (lora, units) = (module.make_optimizer().param_groups for module in (plain, factored))
    assert [group["lr"] for group in (lora, units)] == [whole["lr"], 0.25 * whole["lr"]]
    assert units["params"] == list(factored.units.parameters())
    assert len(lora["params"]) + len(units["params"]) == len(whole["params"])


def test_ddp_leaves_the_constants_of_the_base_alone(make_stage: Any) -> None:
    module = make_stage("negative")
    ignored = set(module._ddp_params_and_buffers_to_ignore)
    assert ignored == {name for name, _ in module.named_buffers()}
    assert not ignored & {name for name, _ in module.named_parameters()}


def test_nat_may_start_from_another_adapter(make_stage: Any, negative_directory: Path) -> None:
    module = make_stage("nat", positive=str(negative_directory))
    layers = module.adapters.lora_layers("positive").values()
    for layer in layers:
        for side in (layer.lora_A, layer.lora_B):
            assert torch.equal(side["positive"].weight, side["negative"].weight)
            assert (side["positive"].weight.requires_grad, side["negative"].weight.requires_grad) == (True, False)


def test_nat_without_a_negative_half_is_refused(tiny_student: Path) -> None:
    with pytest.raises(InputError) as caught:
        NATModel(student=str(tiny_student)).configure_model()
    assert caught.value.field == "model.negative"


@pytest.mark.parametrize("name", STAGES)
def test_checkpoints_hold_what_trains_and_no_more(make_stage: Any, randomise: Any, tmp_path: Path, name: str) -> None:
    module = make_stage(name)
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    randomise(trained.values())
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() == trained.keys()
    torch.save(checkpoint, tmp_path / "checkpoint")
    payload = sum(p.numel() * 4 for p in trained.values())
    assert payload < (tmp_path / "checkpoint").stat().st_size < payload + 800 * (len(trained) + 5)
    again = make_stage(name)
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"], strict=again.strict_loading)
    assert all(torch.equal(p, trained[n]) for n, p in again.named_parameters() if n in trained)


def test_foreign_checkpoints_are_refused(make_stage: Any) -> None:
    module = make_stage("negative")
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    for other in (make_stage("negative", lora=LoraSettings(r=5)), make_stage("nat")):
        with pytest.raises(InputError, match="does not fit this stage"):
            other.on_load_checkpoint(checkpoint)
    with pytest.raises(InputError, match="another base"):
        module.on_load_checkpoint({**checkpoint, "base": {**checkpoint["base"], "shapes": "0" * 16}})


@pytest.mark.parametrize("name", STAGES)
def test_what_a_stage_writes_it_can_go_on_from(make_stage: Any, make_batch: Any, tmp_path: Path, name: str) -> None:
    module, batch = make_stage(name), make_batch()
    train(module, batch, 2)
    module.write_adapter(tmp_path)
    again = make_stage(name, adapter=str(tmp_path), **({"negative": None} if name == "nat" else {}))
    assert held_out_parts(again, batch)["loss"] == held_out_parts(module, batch)["loss"]
    names = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (module, again)]
    assert names[0] == names[1]
    train(again, batch, 1)


@pytest.mark.parametrize("name", ["negative", "nat", "nce"])
def test_fit_trains_with_dropout_and_resumes(make_stage: Any, make_batch: Any, tmp_path: Path, name: str) -> None:
    batch, adapter = make_batch(), POSITIVE if name == "nat" else STUDENT
    make_stage(name).write_adapter(tmp_path)
    module = make_stage(name, adapter=str(tmp_path), **({"negative": None} if name == "nat" else {}))
    assert module.adapters.head  # the checks at the first use are forward passes, which the hook would see
    module.hidden(batch)
    dropping: list[bool] = []

    def watch(layer: Any, args: Any, output: Any) -> None:
        if layer.active_adapters == [adapter]:
            dropping.append(layer.lora_dropout[adapter].training)

    next(iter(module.adapters.lora_layers(adapter).values())).register_forward_hook(watch)
    trainer = quiet_trainer(tmp_path, max_steps=2, limit_val_batches=1, val_check_interval=1)
    trainer.fit(module, loader(batch, batch), loader(batch))
    assert dropping == [True, False, True, False], "train, validate, train, validate"
    trainer.save_checkpoint(tmp_path / "checkpoint")
    again = make_stage(name)
    resumed = quiet_trainer(tmp_path, max_steps=3, limit_val_batches=0)
    resumed.fit(again, loader(batch, batch), ckpt_path=tmp_path / "checkpoint")
    assert resumed.global_step == 3


@pytest.mark.parametrize("name", ["negative", "nat", "nce"])
def test_questions_are_answered(
    make_stage: Any, make_batch: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    module = make_stage(name, sampling=SamplingSettings(samples=3, max_new_tokens=4))
    ids = torch.arange(4, 14).reshape(2, 5)
    questions = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "questions": [{"id": "a"}, {"id": "b"}]}
    questions |= {"eos_token_id": 2, "pad_token_id": 0}
    outputs: list[Any] = []
    listener = L.pytorch.callbacks.LambdaCallback(on_predict_batch_end=lambda *args: outputs.append(args[2]))
    quiet_trainer(tmp_path, listener).predict(module, loader(questions), return_predictions=False)
    assert [(s.question_index, s.k) for s in outputs[0]] == [(q, k) for q in range(2) for k in range(3)]
    untrained = "the base model answers, as it was before any training"
    quiet_trainer(tmp_path).test(module, loader(questions))
    assert untrained in capsys.readouterr().err
    greedy = [module.eval().test_step(questions, 0) for _ in range(2)]
    assert greedy[0] == greedy[1]
    assert len(greedy[0]) == 2
    (trainer := quiet_trainer(tmp_path, max_steps=1)).fit(module, loader(make_batch()))
    trainer.test(module, loader(questions))
    assert untrained not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["negative", "nat", "nce", "ul", "redi", "dpo", "opd"])
def test_a_checkpoint_builds_its_module(make_stage: Any, pairs: Any, tmp_path: Path, name: str) -> None:
    module = make_stage(name, dtype="bfloat16" if name == "negative" else "float32")
    trainer = quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(module, loader(pairs))
    trainer.save_checkpoint(tmp_path / "checkpoint")
    found = type(module).load_from_checkpoint(tmp_path / "checkpoint")
    assert found.hparams == module.hparams
    assert found.lora == module.lora
    loaded = dict(found.named_parameters())
    assert all(torch.equal(loaded[name], p) for name, p in module.named_parameters())
    assert type(module).load_from_checkpoint(tmp_path / "checkpoint", warmup_steps=7).warmup_steps == 7
