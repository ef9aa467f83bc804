import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dust2gold.core.errors import InputError
from lightning_modules.cl import CLModel
from lightning_modules.components.losses.supervised import positive_cross_entropy
from lightning_modules.components.losses.targets import IGNORE, find_targets
from lightning_modules.dpo import DPOModel
from lightning_modules.kto import KTOModel
from lightning_modules.referenced import REFERENCE
from lightning_modules.right_wrong import RightWrongModule
from tests.lightning_modules.steps import held_out_parts, train

pytestmark = pytest.mark.filterwarnings("ignore:.*self.trainer.*:UserWarning")


def test_log_probabilities_are_those_of_each_verdict(make_stage: Any, pairs: dict[str, Any]) -> None:
    module = make_stage("nt")
    parts = held_out_parts(module, pairs)
    with torch.no_grad():
        logits = module.adapters(pairs["input_ids"], pairs["attention_mask"]).double().log_softmax(-1)
    for name, rows in (("positive_logprob", (0, 1)), ("negative_logprob", (2, 3))):
        labels = [(row, t, pairs["labels"][row, t]) for row in rows for t in range(1, 12)]
        values = [logits[row, t - 1, label].item() for row, t, label in labels if label != IGNORE]
        assert parts[name].item() == pytest.approx(math.fsum(values) / len(values), rel=1e-5)


@pytest.mark.parametrize(("name", "part", "weight"), [("dpo", "margin", 4), ("nt", "loss", 26)])
def test_an_epoch_weighs_log_probabilities_by_their_own_tokens(
    make_stage: Any, pairs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str, part: str, weight: int
) -> None:
    module, weights = make_stage(name), {}
    monkeypatch.setattr(module, "log", lambda name, value, batch_size, **_: weights.update({name: batch_size}))
    module.validation_step(pairs, 0)
    found = [weights[f"val/{each}"] for each in ("positive_logprob", "negative_logprob", part)]
    assert found == [6 + 9, 3 + 8, weight]
    if name == "nt":
        module.validation_step({**pairs, "positive": torch.ones(4).bool()}, 0)
        assert weights["val/negative_logprob"] == 0


def test_dpo_starts_at_log_2_and_its_reference_never_moves_or_drops(make_stage: Any, pairs: dict[str, Any]) -> None:
    module = make_stage("dpo")
    first = held_out_parts(module, pairs)
    assert [first["loss"].item(), first["margin"].item()] == pytest.approx([math.log(2), 0], abs=1e-6)
    with torch.no_grad(), module.adapters.using(REFERENCE):
        before = module.hidden(pairs)
    module.train()
    seen: list[bool] = []
    layer = next(iter(module.adapters.lora_layers(REFERENCE).values()))
    layer.lora_dropout[REFERENCE].register_forward_hook(lambda dropout, args, out: seen.append(dropout.training))
    train(module, pairs, 6)
    with torch.no_grad(), module.adapters.using(REFERENCE):
        assert torch.equal(module.hidden(pairs), before)
    assert seen
    assert not any(seen)
    last = held_out_parts(module, pairs)
    assert last["margin"] > 0.01
    assert last["accuracy"] == 1
    assert sum("lora_" not in name for name, _ in module.named_parameters()) == 20, "one base"


def test_dpo_compares_with_the_reference_it_is_given(
    make_stage: Any, pairs: dict[str, Any], tmp_path: Path, negative_directory: Path
) -> None:
    module = make_stage("dpo")
    train(module, pairs, 6)
    module.write_adapter(tmp_path)
    again = make_stage("dpo", adapter=str(tmp_path), reference=str(negative_directory))
    torch.testing.assert_close(held_out_parts(again, pairs)["loss"], held_out_parts(module, pairs)["loss"])


def test_dpo_trains_only_a_student_that_was_trained_before(tiny_student: Path) -> None:
    module = DPOModel(student=str(tiny_student))
    for stage in ("fit", "validate"):
        with pytest.raises(InputError, match="starts from a trained student") as caught:
            module.setup(stage)
        assert caught.value.field == "model.adapter"
    module.setup("test")


def test_kto_starts_at_half_and_compares_with_the_base_or_its_adapter(
    make_stage: Any, pairs: dict[str, Any], negative_directory: Path
) -> None:
    base = make_stage("negative")
    starts = {None: base, str(negative_directory): make_stage("negative", adapter=str(negative_directory))}
    for adapter, start in starts.items():
        module = make_stage("kto", right_weight=1.5, adapter=adapter)
        first = held_out_parts(module, pairs)
        assert [first["loss"].item(), first["kl"].item()] == pytest.approx([(1.5 + 1) / 4, 0], abs=1e-6)
        train(module, pairs, 4)
        with torch.no_grad(), module.adapters.using(REFERENCE):
            assert torch.equal(module.hidden(pairs), start.eval().hidden(pairs))


def test_cl_without_weight_is_mle_and_its_contrast_falls(make_stage: Any, pairs: dict[str, Any]) -> None:
    module, targets = make_stage("cl", weight=0.0), find_targets(pairs)
    with torch.no_grad():
        expected = positive_cross_entropy(module.eval().target_logprobs(pairs, targets), targets)
    torch.testing.assert_close(held_out_parts(module, pairs)["loss"], expected)
    module = make_stage("cl", weight=5.0)
    first = held_out_parts(module, pairs)
    train(module, pairs, 15)
    assert held_out_parts(module, pairs)["contrast"] < first["contrast"] - 0.05


def test_cl_pools_questions_apart_from_rationales(make_stage: Any, pairs: dict[str, Any]) -> None:
    """Other tokens in a rationale move its own state; the padding behind it moves nothing."""
    module = make_stage("cl")
    first = held_out_parts(module, pairs)["contrast"]
    padded = {**pairs, "input_ids": pairs["input_ids"].where(pairs["attention_mask"] == 1, 77)}
    torch.testing.assert_close(held_out_parts(module, padded)["contrast"], first)
    other = pairs["input_ids"].clone()
    other[2, 4] += 1
    assert held_out_parts(module, {**pairs, "input_ids": other})["contrast"] != first


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (DPOModel, "beta", 0.0),
        (KTOModel, "right_weight", -1.0),
        (KTOModel, "wrong_weight", -1.0),
        (CLModel, "weight", -1.0),
        (CLModel, "temperature", 0.0),
    ],
)
def test_settings_out_of_range_are_named(kind: type[RightWrongModule], field: str, value: float) -> None:
    with pytest.raises(InputError) as caught:
        kind(**{field: value})
    assert caught.value.field == f"model.{field}"
