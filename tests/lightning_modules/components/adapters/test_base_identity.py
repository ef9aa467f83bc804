"""What counts as the same base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.components.adapters.base_identity import BaseIdentity
from lightning_modules.components.adapters.stack import load_base

DTYPES = ["float32", "bfloat16", "float16"]


@pytest.fixture
def identity(tiny_student: Path) -> Callable[..., BaseIdentity]:
    """The tiny student's, after a change to its modules by name."""

    def make(dtype: str = "float32", change: Callable[[Any], object] = lambda modules: None) -> BaseIdentity:
        base = load_base(str(tiny_student), dtype)
        with torch.no_grad():
            change(dict(base.named_modules()))
        return BaseIdentity.of(base)

    return make


def without_linear(identity: BaseIdentity, tiny_student: Path) -> BaseIdentity:
    """What a 4-bit load would be known by."""
    base = load_base(str(tiny_student))
    linear = {f"{name}.weight" for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    values = identity.values.clone()
    values[[name in linear for name, _ in base.named_parameters()]] = torch.nan
    return replace(identity, values=values, quantization="4bit")


@pytest.mark.parametrize("here", DTYPES)
@pytest.mark.parametrize("there", DTYPES)
def test_a_base_is_the_same_in_every_dtype_and_has_a_key_of_its_own_in_each(
    identity: Callable[..., BaseIdentity], here: str, there: str
) -> None:
    one, other = identity(here), identity(there)
    assert one.is_same(other)
    assert (one.key == other.key) is (here == there)
    assert one.is_same(BaseIdentity.from_json(other.to_json()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "change",
    [
        lambda modules: modules["model.layers.1.self_attn.q_proj"].weight.mul_(1.01),
        lambda modules: modules["model.norm"].weight.add_(0.01),
        lambda modules: modules["model.layers.0.self_attn.v_proj"].weight.add_(
            torch.randn(16, 2, generator=torch.Generator().manual_seed(0)) @ torch.full((2, 32), 1e-3)
        ),
    ],
    ids=["one layer", "a norm", "a merged LoRA"],
)
def test_other_weights_are_another_base(
    identity: Callable[..., BaseIdentity], dtype: str, change: Callable[[Any], object]
) -> None:
    assert not identity(dtype).is_same(identity("float32", change))
    assert not identity("float32", change).is_same(identity(dtype))


def test_quantised_weights_are_not_compared_and_that_is_said(
    identity: Callable[..., BaseIdentity], tiny_student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four_bits = without_linear(identity("bfloat16"), tiny_student)
    assert four_bits.is_same(four_bits)
    assert "quantization" not in capsys.readouterr().err
    for one, other in ((identity(), four_bits), (four_bits, identity())):
        assert one.is_same(other)
        assert f"trained with quantization {other.quantization}, the base" in capsys.readouterr().err
    assert four_bits.is_same(identity("float32", lambda modules: modules["model.layers.0.mlp.up_proj"].weight.add_(1)))
    assert not four_bits.is_same(identity("float32", lambda modules: modules["model.norm"].weight.add_(1)))


def test_another_shape_is_another_base(identity: Callable[..., BaseIdentity]) -> None:
    wider = load_base("embedded")
    assert not BaseIdentity.of(wider).is_same(identity())


def test_on_the_meta_device_there_is_nothing_to_compare(
    identity: Callable[..., BaseIdentity], tiny_student: Path
) -> None:
    with torch.device("meta"):
        meta = BaseIdentity.of(load_base(str(tiny_student), random_weights=True))
    assert meta.is_same(identity())
    assert identity().is_same(BaseIdentity.from_json(meta.to_json()))
