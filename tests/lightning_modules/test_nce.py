import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.rationales import RationaleDataModule
from dust2gold.core.errors import InputError
from lightning_modules.base import STUDENT, StudentModule
from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.distillation.cache import Columns
from lightning_modules.components.distillation.teachers import CachedSamples, CachedTeacher, CacheReader, CacheSettings
from lightning_modules.components.losses.targets import find_targets
from lightning_modules.nce import NCEModel
from tests.lightning_modules.steps import held_out_parts, loader, quiet_trainer, train
from tests.records import write_held, write_positive

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["nce", "refinement"])
def test_teachers_stay_bit_identical_while_the_student_learns(make_stage: Any, make_batch: Any, name: str) -> None:
    module, batch = make_stage(name), make_batch()
    calls: dict[str, list[tuple[bool, bool, Tensor]]] = {POSITIVE: [], NEGATIVE: [], STUDENT: []}
    stack = module.adapters
    assert stack.head  # the checks at the first use are forward passes, which the hook would see
    module.hidden(batch)

    def watch(decoder: Any, args: Any, output: Any) -> None:
        active = stack.model.active_adapter
        dropping = any(layer.lora_dropout[active].training for layer in stack.lora_layers(active).values())
        hidden = output.last_hidden_state
        calls[active].append((dropping, hidden.requires_grad, hidden.detach()))

    stack.base.get_decoder().register_forward_hook(watch)
    train(module, batch, 4)
    assert [len(each) for each in calls.values()] == [4, 0 if name == "refinement" else 4, 4]
    for adapter in (POSITIVE, NEGATIVE):
        assert all(torch.equal(hidden, calls[adapter][0][2]) for _, _, hidden in calls[adapter])
        assert not any(dropping or gradient for dropping, gradient, _ in calls[adapter])
    assert all(dropping and gradient for dropping, gradient, _ in calls[STUDENT])
    assert not torch.equal(calls[STUDENT][0][2], calls[STUDENT][1][2])


def test_student_sees_dropout_and_teachers_do_not(make_stage: Any, make_batch: Any) -> None:
    module, batch = make_stage("nce"), make_batch()
    train(module, batch, 2)  # B leaves zero
    parts = [module.loss_parts(batch, find_targets(batch)) for _ in range(2)]
    assert parts[0]["cross_entropy"] != parts[1]["cross_entropy"]
    assert parts[0]["beta"] == parts[1]["beta"]
    assert held_out_parts(module, batch)["loss"] == held_out_parts(module, batch)["loss"]


def test_one_base_and_a_beta_per_sample(make_stage: Any, make_batch: Any) -> None:
    def base(stage: StudentModule) -> list[torch.Size]:
        return [p.shape for n, p in stage.named_parameters() if "lora_" not in n and not n.startswith("units.")]

    module = make_stage("nce")
    assert base(module) == base(make_stage("negative"))
    parts = held_out_parts(module, make_batch())
    assert module.last_beta.shape == (4,)
    assert ((module.last_beta > 0) & (module.last_beta < 1)).all()
    assert parts["beta"] == module.last_beta.mean()
    uncalibrated = held_out_parts(make_stage("refinement"), make_batch())
    torch.testing.assert_close(uncalibrated["loss"], (uncalibrated["cross_entropy"] + uncalibrated["distillation"]) / 2)
    assert uncalibrated["beta"] == 0.5


def test_any_adapter_may_teach_and_m_neg_calibrate(
    make_stage: Any, make_batch: Any, negative_directory: Path, tmp_path: Path
) -> None:
    other = make_stage("negative", adapter=str(negative_directory))
    for parameter in other.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    other.write_adapter(tmp_path)
    module = make_stage("nce", nat=str(tmp_path), negative=str(negative_directory))
    assert not module.units
    batch = make_batch()
    for name, directory in (("positive", tmp_path), ("negative", negative_directory)):
        with module.adapters.using(name), torch.no_grad():
            found = module.adapters(batch["input_ids"], batch["attention_mask"])
        alone = make_stage("negative", adapter=str(directory)).eval()
        with torch.no_grad():
            torch.testing.assert_close(found, alone.adapters(batch["input_ids"], batch["attention_mask"]))
    held_out_parts(module, batch)
    assert ((module.last_beta > 0) & (module.last_beta < 1)).all()
    same = make_stage("nce", nat=str(negative_directory), negative=str(negative_directory))
    held_out_parts(same, batch)
    torch.testing.assert_close(same.last_beta, torch.zeros_like(same.last_beta))


def test_a_token_may_have_a_beta_of_its_own(make_stage: Any, make_batch: Any) -> None:
    batch = make_batch()
    by_sample, by_token = make_stage("nce", mix=1.0), make_stage("nce", mix=1.0, per_token=True)
    parts = [held_out_parts(module, batch) for module in (by_sample, by_token)]
    assert by_token.last_beta.shape == find_targets(batch).tokens.shape
    assert parts[0]["distillation"] == parts[1]["distillation"]
    assert parts[0]["loss"] != parts[1]["loss"]
    assert parts[1]["beta"] < parts[0]["beta"], "tanh is concave: the mean of tanh lies below the tanh of the mean"


def test_the_placebo_permutes_beta_among_the_samples_of_a_batch(make_stage: Any, make_batch: Any) -> None:
    batch, placebo, honest = make_batch(), make_stage("nce", permuted=True), make_stage("nce")
    own = held_out_parts(honest, batch)
    assert held_out_parts(placebo, batch)["loss"] == own["loss"], "validation shows the real loss"
    placebo.train()
    orders = []
    for _ in range(5):
        placebo.loss_parts(batch, find_targets(batch))
        assert sorted(placebo.last_beta.tolist()) == sorted(honest.last_beta.tolist())
        orders.append(placebo.last_beta.tolist())
    assert len({tuple(order) for order in orders}) > 1


def test_no_mix_is_plain_training(make_stage: Any, make_batch: Any) -> None:
    one, other = (held_out_parts(stage, make_batch()) for stage in (make_stage("nce", mix=0.0), make_stage("negative")))
    torch.testing.assert_close(one["loss"], other["loss"], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"mix": 1.5},
        {"mix": -0.1},
        {"temperature": 0.0},
        {"per_token": True, "calibrated": False},
        {"permuted": True, "per_token": True},
    ],
)
def test_settings_that_cannot_work_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        NCEModel(**options)
    assert caught.value.field == f"model.{next(iter(options))}"


def test_training_needs_a_teacher_and_sampling_none(tiny_student: Path) -> None:
    nce = NCEModel(student=str(tiny_student))
    for stage in ("fit", "validate"):
        with pytest.raises(InputError) as caught:
            nce.setup(stage)
        assert caught.value.field == "model.nat"
    nce.setup("predict")
    nce.configure_model()
    assert not nce.units


def test_an_epoch_weighs_means_over_samples_by_samples(
    make_stage: Any, make_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batch, weights = make_stage("nce"), make_batch(), {}
    monkeypatch.setattr(module, "log", lambda name, value, batch_size, **_: weights.update({name: batch_size}))
    module.validation_step(batch, 0)
    tokens = int((batch["labels"][:, 1:] != -100).sum())
    assert weights == {"val/loss": tokens, "val/cross_entropy": tokens, "val/distillation": 4, "val/beta": 4}


@pytest.mark.parametrize("per_token", [False, True])
def test_a_cached_teacher_trains_the_same_student_and_runs_once(
    make_stage: Any, make_batch: Any, tmp_path: Path, per_token: bool
) -> None:
    batches = [make_batch(seed=seed) for seed in (1, 2)]
    trained: list[list[Tensor]] = []
    runs = [("online", 3, None, 9), ("cached", 2, None, 3), ("cached", 3, tmp_path / "checkpoint", 0)]
    for teacher, epochs, checkpoint, passes in runs:
        torch.manual_seed(5)
        options = {
            "teacher": teacher,
            "cache": CacheSettings(storage="float32"),
            "per_token": per_token,
            "schedule": "constant",
        }
        module = make_stage("nce", **options, lora=LoraSettings(r=4, alpha=16, dropout=0.0))
        stack, active = module.adapters, list[str]()
        module.hidden(batches[0])  # the first is checked, by passes that the hook would see
        stack.base.get_decoder().register_forward_hook(
            lambda *_, stack=stack, active=active: active.append(stack.model.active_adapter)
        )
        trainer = quiet_trainer(tmp_path, max_epochs=epochs)
        trainer.fit(module, loader(*batches), loader(make_batch(seed=3)), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "checkpoint")
        assert [active.count(name) for name in (POSITIVE, NEGATIVE)] == [passes, passes]
        trained.append([p.detach() for p in module.parameters() if p.requires_grad])
    torch.testing.assert_close(trained[2], trained[0], rtol=1e-4, atol=1e-6)


def test_cached_targets_are_read_where_batches_are_collated(
    make_stage: Any, tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the loaders' workers; from the second epoch on the training process itself neither reads nor asks."""
    train, held = write_positive(tmp_path / "train.jsonl", 5), write_held(tmp_path / "held.jsonl", 2, 1)
    trained: list[list[Tensor]] = []
    for teacher, workers in (("online", 0), ("cached", 0), ("cached", 2)):
        torch.manual_seed(5)
        lora, cache = LoraSettings(r=4, alpha=16, dropout=0.0), CacheSettings(storage="float32")
        module = make_stage("nce", teacher=teacher, cache=cache, schedule="constant", lora=lora)
        data = RationaleDataModule(str(tiny_student), train, held, batch_size=3, num_workers=workers)
        incomplete: list[int] = []
        with monkeypatch.context() as patch:
            if workers:
                patch.setattr(CacheReader, "__call__", _not_here(os.getpid()))
            patch.setattr(CachedTeacher, "_completed", _noting(module, incomplete))
            quiet_trainer(tmp_path / f"{teacher}-{workers}", max_epochs=3).fit(module, data)
        assert set(incomplete) == (set() if teacher == "online" else {0})
        trained.append([p.detach() for p in module.parameters() if p.requires_grad])
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-4, atol=1e-6)
    assert all(torch.equal(one, other) for one, other in zip(trained[1], trained[2], strict=True))


def _not_here(process: int) -> Callable[..., CachedSamples]:
    """A reader that refuses to read in this process."""
    read = CacheReader.__call__

    def elsewhere(reader: CacheReader, batch: dict[str, Any]) -> CachedSamples:
        assert os.getpid() != process
        return read(reader, batch)

    return elsewhere


def _noting(module: NCEModel, epochs: list[int]) -> Callable[..., Columns]:
    """`CachedTeacher._completed` that notes the epoch of each call."""
    complete = CachedTeacher._completed

    def noting(*arguments: Any) -> Columns:
        epochs.append(module.current_epoch)
        return complete(*arguments)

    return noting
