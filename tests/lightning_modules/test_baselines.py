"""NT, UL, REDI, DPO and CL on the tiny student: each learns its way, and only its own adapter moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.base import STUDENT
from lightning_modules.cl import CLModel
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.losses.negatives import REDI, NegativeTraining, Unlikelihood
from lightning_modules.components.losses.supervised import positive_cross_entropy
from lightning_modules.components.losses.targets import IGNORE, find_targets
from lightning_modules.dpo import REFERENCE, DPOModel
from lightning_modules.positive_negative import PositiveNegativeModel
from lightning_modules.right_wrong import RightWrongModule
from tests.lightning_modules.steps import held_out_parts, train

LORA = LoraSettings(r=4, alpha=16, dropout=0.2)
STAGES = ["nt", "ul", "ul-token", "redi", "dpo", "cl"]

pytestmark = pytest.mark.filterwarnings("ignore:.*self.trainer.*:UserWarning")


@pytest.fixture
def make_stage(tiny_student: Path, negative_directory: Path) -> Callable[..., RightWrongModule]:
    """Builds a baseline by name on the tiny student; REDI and DPO start from a random adapter."""
    start = {"adapter": str(negative_directory)}
    arguments: dict[str, tuple[type[RightWrongModule], dict[str, Any]]] = {
        "nt": (PositiveNegativeModel, {"objective": NegativeTraining(0.5)}),
        "ul": (PositiveNegativeModel, {"objective": Unlikelihood(0.5)}),
        "ul-token": (PositiveNegativeModel, {"objective": Unlikelihood(5.0, "token")}),
        "redi": (PositiveNegativeModel, {"objective": REDI(), **start}),
        "dpo": (DPOModel, start),
        "cl": (CLModel, {}),
    }

    def make(name: str, **kwargs: Any) -> RightWrongModule:
        kind, own = arguments[name]
        module = kind(**{"student": str(tiny_student), "lora": LORA, **own, **kwargs})
        module.configure_model()
        return module

    return make


@pytest.fixture
def pairs(make_batch: Any) -> dict[str, Any]:
    """Two questions (the first three tokens) with a right and a wrong rationale each."""
    batch: dict[str, Any] = make_batch((9, 12, 6, 11))
    ids = batch["input_ids"]
    ids[2:, :3] = ids[:2, :3]
    prompt = torch.zeros_like(ids)
    prompt[:, :3] = 1
    groups = torch.tensor([0, 1, 0, 1])
    return {
        **batch,
        "positive": torch.tensor([True, True, False, False]),
        "groups": groups,
        "prompt_mask": prompt,
        "ids": list("abcd"),
    }


@pytest.mark.parametrize("name", STAGES)
def test_the_loss_falls_and_right_rationales_win(
    make_stage: Callable[..., RightWrongModule], pairs: dict[str, Any], name: str
) -> None:
    module = make_stage(name)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    first = held_out_parts(module, pairs)
    train(module, pairs, 15)
    last = held_out_parts(module, pairs)
    assert last["loss"] < first["loss"] - 0.05
    if name != "cl":  # which leaves the likelihood of wrong rationales alone
        margins = [parts["positive_logprob"] - parts["negative_logprob"] for parts in (first, last)]
        assert margins[1] > margins[0] + 0.05
    assert all(part.isfinite() and part.ndim == 0 for part in last.values())
    moved = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if f".{STUDENT}." in n}


def test_log_probabilities_are_those_of_each_verdict(
    make_stage: Callable[..., RightWrongModule], pairs: dict[str, Any]
) -> None:
    module = make_stage("nt")
    parts = held_out_parts(module, pairs)
    with torch.no_grad():
        logits = module.adapters(pairs["input_ids"], pairs["attention_mask"]).double().log_softmax(-1)
    for name, rows in (("positive_logprob", (0, 1)), ("negative_logprob", (2, 3))):
        values = [
            logits[row, t - 1, pairs["labels"][row, t]].item()
            for row in rows
            for t in range(1, 12)
            if pairs["labels"][row, t] != IGNORE
        ]
        assert parts[name].item() == pytest.approx(math.fsum(values) / len(values), rel=1e-5)


def test_an_epoch_weighs_log_probabilities_by_their_own_tokens(
    make_stage: Callable[..., RightWrongModule], pairs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: dict[str, int] = {}
    for name, part in (("dpo", "margin"), ("nt", "loss")):
        module = make_stage(name)
        monkeypatch.setattr(module, "log", lambda name, value, batch_size, **_: weights.update({name: batch_size}))
        module.validation_step(pairs, 0)
        assert weights["val/positive_logprob"] == 6 + 9
        assert weights["val/negative_logprob"] == 3 + 8
        assert weights[f"val/{part}"] == (4 if name == "dpo" else 26)
    module.validation_step({**pairs, "positive": torch.ones(4).bool()}, 0)
    assert weights["val/negative_logprob"] == 0


def test_dpo_starts_at_log_2_and_its_reference_never_moves_or_drops(
    make_stage: Callable[..., RightWrongModule], pairs: dict[str, Any]
) -> None:
    module = make_stage("dpo")
    first = held_out_parts(module, pairs)
    assert first["loss"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert first["margin"].item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad(), module.adapters.using(REFERENCE):
        before = module.hidden(pairs)
    module.train()
    seen: list[Tensor] = []
    layer: Any = next(iter(module.adapters.lora_layers(REFERENCE).values()))
    layer.lora_dropout[REFERENCE].register_forward_hook(lambda dropout, args, out: seen.append(dropout.training))
    train(module, pairs, 6)
    with torch.no_grad(), module.adapters.using(REFERENCE):
        assert torch.equal(module.hidden(pairs), before)
    assert seen
    assert not any(seen)
    last = held_out_parts(module, pairs)
    assert last["margin"] > 0.01
    assert last["accuracy"] == 1
    base = [p for n, p in module.named_parameters() if "lora_" not in n]
    assert len(base) == 20, "one base"


def test_dpo_compares_with_the_reference_it_is_given(
    make_stage: Callable[..., RightWrongModule], pairs: dict[str, Any], tmp_path: Path, negative_directory: Path
) -> None:
    module = make_stage("dpo")
    train(module, pairs, 6)
    module.write_adapter(tmp_path)
    again = make_stage("dpo", adapter=str(tmp_path), reference=str(negative_directory))
    torch.testing.assert_close(held_out_parts(again, pairs)["loss"], held_out_parts(module, pairs)["loss"])


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_dpo_wants_a_student_to_start_from(tiny_student: Path, stage: str) -> None:
    with pytest.raises(InputError, match="starts from a trained student") as caught:
        DPOModel(student=str(tiny_student)).setup(stage)
    assert caught.value.field == "model.adapter"
    DPOModel(student=str(tiny_student)).setup("test")


def test_cl_without_weight_is_mle_and_its_contrast_falls(
    make_stage: Callable[..., RightWrongModule], pairs: dict[str, Any]
) -> None:
    module = make_stage("cl", weight=0.0)
    targets = find_targets(pairs)
    with torch.no_grad():
        expected = positive_cross_entropy(module.eval().target_logprobs(pairs, targets), targets)
    torch.testing.assert_close(held_out_parts(module, pairs)["loss"], expected)
    module = make_stage("cl", weight=5.0)
    first = held_out_parts(module, pairs)
    train(module, pairs, 15)
    assert held_out_parts(module, pairs)["contrast"] < first["contrast"] - 0.05


def test_questions_are_pooled_apart_from_rationales(
    make_stage: Callable[..., RightWrongModule], pairs: dict[str, Any]
) -> None:
    """Other tokens in a rationale move its own state; the padding behind it moves nothing."""
    module = make_stage("cl")
    first = held_out_parts(module, pairs)["contrast"]
    padded = {**pairs, "input_ids": pairs["input_ids"].where(pairs["attention_mask"] == 1, 77)}
    torch.testing.assert_close(held_out_parts(module, padded)["contrast"], first)
    other = pairs["input_ids"].clone()
    other[2, 4] += 1
    assert held_out_parts(module, {**pairs, "input_ids": other})["contrast"] != first


@pytest.mark.parametrize(
    ("kind", "field", "value"), [(DPOModel, "beta", 0.0), (CLModel, "weight", -1.0), (CLModel, "temperature", 0.0)]
)
def test_settings_out_of_range_are_named(kind: type[RightWrongModule], field: str, value: float) -> None:
    with pytest.raises(InputError) as caught:
        kind(**{field: value})
    assert caught.value.field == f"model.{field}"
