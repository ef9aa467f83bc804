from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dust2gold.core.errors import InputError
from lightning_modules.base import STUDENT, StudentModule
from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE, UnitSettings
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.distillation.teachers import CacheSettings
from lightning_modules.components.losses.targets import find_targets
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.nat import NATModel
from lightning_modules.nce import NCEModel
from lightning_modules.negative import NegativeModel
from tests.lightning_modules.steps import held_out_parts, train

LORA = LoraSettings(r=4, alpha=16, dropout=0.2)
UNITS = UnitSettings(key_dim=6, bottleneck=10)
STAGES = ["negative", "nat", "nce", "refinement"]

pytestmark = pytest.mark.filterwarnings("ignore:.*self.trainer.*:UserWarning")


@pytest.fixture
def make_stage(tiny_student: Path, negative_directory: Path, nat_directory: Path) -> Callable[..., StudentModule]:
    """Builds a stage by name on the tiny student, its model in place."""
    arguments: dict[str, tuple[type[StudentModule], dict[str, Any]]] = {
        "negative": (NegativeModel, {}),
        "nat": (NATModel, {"negative": str(negative_directory), "units": UNITS}),
        "nce": (NCEModel, {"nat": str(nat_directory)}),
        "refinement": (NCEModel, {"nat": str(nat_directory), "calibrated": False}),
    }

    def make(name: str, **kwargs: Any) -> StudentModule:
        kind, own = arguments[name]
        module = kind(student=str(tiny_student), **{"lora": LORA, **own, **kwargs})
        module.configure_model()
        return module

    return make


@pytest.mark.parametrize("name", STAGES)
def test_the_loss_falls_and_only_what_should_trains(
    make_stage: Callable[..., StudentModule], make_batch: Any, name: str
) -> None:
    module, batch = make_stage(name), make_batch()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    first = held_out_parts(module, batch)
    train(module, batch, 15)
    last = held_out_parts(module, batch)
    assert last["loss"] < first["loss"] - 0.05  # NCE has a floor: its teacher is close to uniform here
    assert all(part.isfinite() and part.ndim == 0 for part in last.values())
    moved = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    own = f".{POSITIVE if name == 'nat' else STUDENT}."
    assert moved == {n for n in before if own in n or (name == "nat" and n.startswith("units."))}


@pytest.mark.parametrize("name", STAGES)
def test_gradient_checkpointing_changes_no_gradient(
    make_stage: Callable[..., StudentModule], make_batch: Any, randomise: Callable[..., None], name: str
) -> None:
    found = []
    for checkpointing in (False, True):
        module = make_stage(name, gradient_checkpointing=checkpointing)
        randomise(p for p in module.parameters() if p.requires_grad)
        torch.manual_seed(1)  # of dropout, which comes back as it was
        module.training_step(make_batch(), 0).backward()
        found.append({n: p.grad for n, p in module.named_parameters() if p.grad is not None})
        decoder: Any = module.adapters.base.get_decoder()
        assert {layer.gradient_checkpointing for layer in decoder.layers} == {checkpointing}
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys()
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    assert [n for n, gradient in plain.items() if not torch.equal(checkpointed[n], gradient)] == []


@pytest.mark.parametrize("name", ["nce", "refinement"])
def test_teachers_stay_bit_identical_while_the_student_learns(
    make_stage: Callable[..., StudentModule], make_batch: Any, name: str
) -> None:
    module, batch = make_stage(name), make_batch()
    calls: list[tuple[str, bool, bool, Tensor]] = []

    stack: Any = module.adapters
    assert stack.head  # checked once, before we watch

    def watch(decoder: Any, args: Any, output: Any) -> None:
        dropouts = stack.lora_layers(stack.model.active_adapter).values()
        dropping = any(layer.lora_dropout[stack.model.active_adapter].training for layer in dropouts)
        hidden = output.last_hidden_state
        calls.append((stack.model.active_adapter, dropping, hidden.requires_grad, hidden.detach()))

    stack.base.get_decoder().register_forward_hook(watch)
    train(module, batch, 4)
    seen = {n: [call for call in calls if call[0] == n] for n in (POSITIVE, NEGATIVE, STUDENT)}
    assert [len(seen[n]) for n in seen] == [4, 0 if name == "refinement" else 4, 4]
    for adapter in (POSITIVE, NEGATIVE):
        assert all(torch.equal(call[3], seen[adapter][0][3]) for call in seen[adapter])
        assert not any(dropping or gradient for _, dropping, gradient, _ in seen[adapter])
    assert all(dropping and gradient for _, dropping, gradient, _ in seen[STUDENT])
    assert not torch.equal(seen[STUDENT][0][3], seen[STUDENT][1][3])


def test_student_sees_dropout_from_the_first_step(make_stage: Callable[..., StudentModule], make_batch: Any) -> None:
    module, batch = make_stage("nce"), make_batch()
    train(module, batch, 2)  # B leaves zero
    parts = [module.loss_parts(batch, find_targets(batch)) for _ in range(2)]
    assert parts[0]["cross_entropy"] != parts[1]["cross_entropy"]
    assert parts[0]["beta"] == parts[1]["beta"]
    assert held_out_parts(module, batch)["loss"] == held_out_parts(module, batch)["loss"]


def test_nce_has_one_base_and_a_beta_per_sample(make_stage: Callable[..., StudentModule], make_batch: Any) -> None:
    module, plain = make_stage("nce"), make_stage("negative")

    def base(stage: StudentModule) -> list[Tensor]:
        return [p for n, p in stage.named_parameters() if "lora_" not in n and not n.startswith("units.")]

    assert len(base(module)) == len(base(plain)) == 20
    assert sum(p.numel() for p in base(module)) == sum(p.numel() for p in base(plain))
    assert isinstance(module, NCEModel)
    parts = held_out_parts(module, make_batch())
    assert module.last_beta is not None
    assert module.last_beta.shape == (4,)
    assert ((module.last_beta > 0) & (module.last_beta < 1)).all()
    assert parts["beta"] == module.last_beta.mean()
    uncalibrated = held_out_parts(make_stage("refinement"), make_batch())
    torch.testing.assert_close(uncalibrated["loss"], (uncalibrated["cross_entropy"] + uncalibrated["distillation"]) / 2)
    assert uncalibrated["beta"] == 0.5


def test_nce_with_no_mix_is_plain_training(make_stage: Callable[..., StudentModule], make_batch: Any) -> None:
    one, other = (
        held_out_parts(make_stage(n, **k), make_batch()) for n, k in (("nce", {"mix": 0.0}), ("negative", {}))
    )
    torch.testing.assert_close(one["loss"], other["loss"], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("field", "value"), [("mix", 1.5), ("mix", -0.1), ("temperature", 0.0)])
def test_nce_settings_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(InputError) as caught:
        NCEModel(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == f"model.{field}"


def test_an_epoch_weighs_means_over_samples_by_samples(
    make_stage: Callable[..., StudentModule], make_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batch, weights = make_stage("nce"), make_batch(), {}
    monkeypatch.setattr(module, "log", lambda name, value, batch_size, **_: weights.update({name: batch_size}))
    module.validation_step(batch, 0)
    tokens = int((batch["labels"][:, 1:] != -100).sum())
    assert weights == {"val/loss": tokens, "val/cross_entropy": tokens, "val/distillation": 4, "val/beta": 4}


def test_ddp_leaves_the_constants_of_the_base_alone(make_stage: Callable[..., StudentModule]) -> None:
    module = make_stage("negative")
    ignored = set(module._ddp_params_and_buffers_to_ignore)
    assert ignored == {name for name, _ in module.named_buffers()}
    assert not ignored & {name for name, _ in module.named_parameters()}


def test_missing_parts_are_named(tiny_student: Path) -> None:
    with pytest.raises(InputError) as caught:
        NATModel(student=str(tiny_student)).configure_model()
    assert caught.value.field == "model.negative"
    nce = NCEModel(student=str(tiny_student))
    for stage in ("fit", "validate"):
        with pytest.raises(InputError) as caught:
            nce.setup(stage)
        assert caught.value.field == "model.nat"
    nce.setup("predict")
    nce.configure_model()  # sampling needs no teacher
    assert not nce.units


@pytest.mark.parametrize("name", STAGES)
def test_checkpoints_hold_what_trains_and_no_more(
    make_stage: Callable[..., StudentModule], randomise: Any, tmp_path: Path, name: str
) -> None:
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


def test_foreign_checkpoints_are_refused(make_stage: Callable[..., StudentModule]) -> None:
    module = make_stage("negative")
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    with pytest.raises(InputError, match="does not fit this stage"):
        make_stage("negative", lora=LoraSettings(r=5)).on_load_checkpoint(checkpoint)
    with pytest.raises(InputError, match="does not fit this stage"):
        make_stage("nat").on_load_checkpoint(checkpoint)
    with pytest.raises(InputError, match="another base"):
        make_stage("negative").on_load_checkpoint({**checkpoint, "base": {**checkpoint["base"], "shapes": "0" * 16}})


@pytest.mark.parametrize("name", STAGES)
def test_what_a_stage_writes_it_can_go_on_from(
    make_stage: Callable[..., StudentModule], make_batch: Any, tmp_path: Path, name: str
) -> None:
    module, batch = make_stage(name), make_batch()
    train(module, batch, 2)
    module.write_adapter(tmp_path)
    again = make_stage(name, adapter=str(tmp_path), **({"negative": None} if name == "nat" else {}))
    assert held_out_parts(again, batch)["loss"] == held_out_parts(module, batch)["loss"]
    names = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (module, again)]
    assert names[0] == names[1]
    train(again, batch, 1)


# Under Lightning.


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., L.Trainer]:
    def make(**kwargs: Any) -> L.Trainer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return L.Trainer(
            accelerator="cpu", default_root_dir=tmp_path, enable_model_summary=False, **{**quiet, **kwargs}
        )

    return make


def loader(*batches: dict[str, Any]) -> DataLoader[dict[str, Any]]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["negative", "nat", "nce"])
def test_fit_trains_with_dropout_and_resumes(
    make_stage: Callable[..., StudentModule], make_trainer: Any, make_batch: Any, tmp_path: Path, name: str
) -> None:
    batch = make_batch()
    make_stage(name).write_adapter(tmp_path)
    own = {"negative": None} if name == "nat" else {}
    module = make_stage(name, adapter=str(tmp_path), **own)  # the adapter is loaded, not fresh
    assert module.adapters.head  # checked once, before we watch
    dropping: list[bool] = []
    adapter = POSITIVE if name == "nat" else STUDENT
    layer: Any = next(iter(module.adapters.lora_layers(adapter).values()))

    def watch(watched: Any, args: Any, output: Any) -> None:
        if watched.active_adapters == [adapter]:
            dropping.append(watched.lora_dropout[adapter].training)

    layer.register_forward_hook(watch)
    trainer = make_trainer(max_steps=2, num_sanity_val_steps=0, limit_val_batches=1, val_check_interval=1)
    trainer.fit(module, loader(batch, batch), loader(batch))
    assert dropping == [True, False, True, False], "train, validate, train, validate"
    trainer.save_checkpoint(tmp_path / "checkpoint")
    base = sum(p.numel() * 4 for p in module.parameters() if not p.requires_grad)
    assert (tmp_path / "checkpoint").stat().st_size < base + 3 * 4 * sum(
        p.numel() for p in module.parameters() if p.requires_grad
    )
    again = make_stage(name)
    make_trainer(max_steps=3, limit_val_batches=0).fit(again, loader(batch, batch), ckpt_path=tmp_path / "checkpoint")
    assert again.trainer.global_step == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("per_token", [False, True])
def test_a_cached_teacher_trains_the_same_student_and_is_asked_once(
    make_stage: Callable[..., StudentModule], make_trainer: Any, make_batch: Any, tmp_path: Path, per_token: bool
) -> None:
    batches = [make_batch(seed=seed) for seed in (1, 2)]
    trained: list[list[Tensor]] = []
    teaching: list[str] = []
    for teacher, epochs, checkpoint in (("online", 3, None), ("cached", 2, None), ("cached", 3, "checkpoint")):
        torch.manual_seed(5)
        cache = CacheSettings(storage="float32")
        module = make_stage("nce", teacher=teacher, cache=cache, per_token=per_token, lora=replace(LORA, dropout=0.0))
        stack = module.adapters
        stack.base.get_decoder().register_forward_hook(
            lambda *_, stack=stack: teaching.append(str(stack.model.active_adapter))
        )
        teaching.clear()
        trainer = make_trainer(max_epochs=epochs, num_sanity_val_steps=0)
        path = None if checkpoint is None else tmp_path / checkpoint
        trainer.fit(module, loader(*batches), loader(make_batch(seed=3)), ckpt_path=path)
        trainer.save_checkpoint(tmp_path / "checkpoint")
        counts = [teaching.count(name) for name in (POSITIVE, NEGATIVE)]
        assert counts == ([9, 9] if teacher == "online" else [3, 3] if path is None else [0, 0])
        trained.append([p.detach() for p in module.parameters() if p.requires_grad])
    for online, resumed in zip(trained[0], trained[2], strict=True):
        torch.testing.assert_close(resumed, online, rtol=1e-4, atol=1e-6)


def test_a_token_may_have_a_beta_of_its_own(make_stage: Callable[..., StudentModule], make_batch: Any) -> None:
    batch = make_batch()
    by_sample, by_token = make_stage("nce", mix=1.0), make_stage("nce", mix=1.0, per_token=True)
    parts = [held_out_parts(module, batch) for module in (by_sample, by_token)]
    targets = find_targets(batch)
    assert isinstance(by_token, NCEModel)
    assert by_token.last_beta is not None
    assert by_token.last_beta.shape == targets.tokens.shape
    assert parts[0]["distillation"] == parts[1]["distillation"]
    assert parts[0]["loss"] != parts[1]["loss"]
    assert parts[1]["beta"] < parts[0]["beta"], "tanh is concave: the mean of tanh lies below the tanh of the mean"
    with pytest.raises(InputError) as caught:
        NCEModel(per_token=True, calibrated=False)
    assert caught.value.field == "model.per_token"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["negative", "nat", "nce"])
def test_questions_are_answered(make_stage: Callable[..., StudentModule], make_trainer: Any, name: str) -> None:
    sampling = SamplingSettings(samples=3, max_new_tokens=4)
    module = make_stage(name, sampling=sampling)
    ids = torch.arange(4, 14).reshape(2, 5)
    questions = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "questions": [{"id": "a"}, {"id": "b"}],
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    written: list[Any] = []
    writer = L.pytorch.callbacks.LambdaCallback(
        on_predict_batch_end=lambda trainer, module, outputs, *rest: written.append(outputs)
    )
    make_trainer(callbacks=[writer]).predict(module, loader(questions), return_predictions=False)
    (samples,) = written
    assert [(s.question_index, s.k) for s in samples] == [(q, k) for q in range(2) for k in range(3)]
    make_trainer().test(module, loader(questions))
    module.eval()
    greedy = [module.test_step(questions, 0) for _ in range(2)]
    assert greedy[0] == greedy[1]
    assert len(greedy[0]) == 2
