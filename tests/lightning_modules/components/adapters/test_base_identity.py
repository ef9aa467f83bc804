from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from lightning_modules.components.adapters.base_identity import BaseIdentity
from lightning_modules.components.adapters.stack import load_base

DTYPES = ["float32", "bfloat16", "float16"]
MakeIdentity = Callable[..., BaseIdentity]


@pytest.fixture(scope="module")
def small_weights(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A student some of whose weights float16 loses."""
    model = LlamaForCausalLM.from_pretrained(tiny_student)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(0)).pow_(9)
    model.save_pretrained(directory := tmp_path_factory.mktemp("student"))
    return str(directory)


@pytest.fixture
def identity(tiny_student: Path) -> MakeIdentity:
    """The tiny student's, after a change to its modules by name."""

    def make(
        dtype: str = "float32", change: Callable[[Any], object] = lambda modules: None, student: str | None = None
    ) -> BaseIdentity:
        base = load_base(student or str(tiny_student), dtype)
        with torch.no_grad():
            change(dict(base.named_modules()))
        return BaseIdentity.of(base)

    return make


def test_a_base_is_the_same_in_every_dtype_and_has_a_key_of_its_own_in_each(
    identity: MakeIdentity, tiny_student: Path, small_weights: str
) -> None:
    for student in (str(tiny_student), small_weights):
        found = {dtype: identity(dtype, student=student) for dtype in DTYPES}
        assert len({each.key for each in (*found.values(), identity(student=student))}) == 3
        for one, other in product(found.values(), repeat=2):
            assert one.is_same(BaseIdentity.from_json(other.to_json()))
    assert not found["float16"].is_same(identity("float32"))


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
def test_other_weights_are_another_base(identity: MakeIdentity, dtype: str, change: Callable[[Any], object]) -> None:
    assert not identity(dtype).is_same(identity("float32", change))
    assert not identity("float32", change).is_same(identity(dtype))


def test_quantised_weights_are_not_compared_and_that_is_said(
    identity: MakeIdentity, tiny_student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_base(str(tiny_student))
    linear = {f"{name}.weight" for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    values = identity("bfloat16").values.clone()
    values[[name in linear for name, _ in base.named_parameters()]] = torch.nan
    four_bits = replace(identity("bfloat16"), values=values, quantization="4bit")
    assert four_bits.is_same(four_bits)
    assert "quantization" not in capsys.readouterr().err
    for one, other in ((identity(), four_bits), (four_bits, identity())):
        assert one.is_same(other)
        message = f"trained with quantization {other.quantization}, the base is loaded with {one.quantization}"
        assert message in capsys.readouterr().err
    assert four_bits.is_same(identity("float32", lambda modules: modules["model.layers.0.mlp.up_proj"].weight.add_(1)))
    assert not four_bits.is_same(identity("float32", lambda modules: modules["model.norm"].weight.add_(1)))


def test_shapes_are_compared_and_nothing_on_the_meta_device(identity: MakeIdentity, tiny_student: Path) -> None:
    assert not BaseIdentity.of(load_base("embedded")).is_same(identity())
    with torch.device("meta"):
        meta = BaseIdentity.of(load_base(str(tiny_student), random_weights=True))
    assert meta.is_same(identity())
    assert identity().is_same(BaseIdentity.from_json(meta.to_json()))
