"""Tiny random students of every family go through the method: NEG, NAT, NCE, sampling, merging."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from dust2gold.core.errors import InputError
from lightning_modules.base import StudentModule
from lightning_modules.components.adapters.nat import UnitSettings
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings, load_base
from lightning_modules.components.losses.targets import IGNORE
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.nat import NATModel
from lightning_modules.nce import NCEModel
from lightning_modules.negative import NegativeModel
from tests.families import FEW, NOT_TRIED, REFUSED, WORKING, write_family

IDS = torch.randint(3, 97, (3, 10), generator=torch.Generator().manual_seed(0))
ONES = torch.ones_like(IDS)


def trained(stage: StudentModule, directory: Path) -> str:
    """The adapter of two steps on two right-padded rationales and a longer one."""
    stage.configure_model()
    optimizer = torch.optim.AdamW((p for p in stage.parameters() if p.requires_grad), lr=1e-2)
    mask, labels = ONES.clone(), IDS.clone()
    mask[:2, 7:], labels[:, :3] = 0, IGNORE
    batch = {"input_ids": IDS * mask, "attention_mask": mask, "labels": labels.masked_fill(mask == 0, IGNORE)}
    for _ in range(2):
        loss = stage.training_step(batch, 0)
        assert math.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    directory.mkdir()
    stage.write_adapter(directory)
    return str(directory)


@torch.no_grad()
def check_samples(stage: StudentModule) -> None:
    """Each sample's log-probability, token by token from a cache, is that of one pass over its text."""
    ids, mask = IDS[:2, :6].clone(), ONES[:2, :6].clone()
    ids[0, :2], mask[0, :2] = 0, 0
    questions = [{"id": "a"}, {"id": "b"}]
    batch = {"questions": questions, "input_ids": ids, "attention_mask": mask, "eos_token_id": 2, "pad_token_id": 0}
    for sample in stage.eval()._sample(batch, SamplingSettings(samples=3, max_new_tokens=14, seed=1, rows=4)):
        tokens = torch.tensor(sample.token_ids + [2] * sample.finished)  # [n]
        text = torch.cat([ids[sample.question_index][mask[sample.question_index].bool()], tokens])[None]  # [1, T]
        logprobs = stage.adapters(text, torch.ones_like(text))[0].float().log_softmax(-1)  # [T, V]
        expected = logprobs[-len(tokens) - 1 : -1].gather(-1, tokens[:, None]).sum()
        assert sample.logprob == pytest.approx(float(expected), abs=1e-3)


def check_merged(student: str, adapter: str, directory: Path) -> None:
    """The merged model, written and read again, has the adapter's logits, and not the base's."""
    stack = AdapterStack(load_base(student), student)

    def logits(model: Any) -> Tensor:
        return model(input_ids=IDS, attention_mask=ONES, use_cache=False).logits.detach()  # type: ignore[no-any-return]

    plain = logits(stack.eval().model)
    stack.load("student", adapter)
    expected = logits(stack.eval().model)
    stack.model.merge_and_unload().save_pretrained(directory)  # type: ignore[operator]
    found = logits(AutoModelForCausalLM.from_pretrained(directory).eval())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-3)


def go_through(family: str, lora: LoraSettings, room: Path) -> None:
    student = str(write_family(family, room / "student"))
    options: dict[str, Any] = {"student": student, "lora": lora}
    negative = trained(NegativeModel(**options), room / "neg")
    nat = trained(NATModel(negative=negative, units=UnitSettings(4, 4), **options), room / "nat")
    stage = NCEModel(nat=nat, **options)
    adapter = trained(stage, room / "nce")
    check_samples(stage)
    check_merged(student, adapter, room / "merged")


def test_the_docs_list_every_family() -> None:
    text = (Path(__file__).parents[1] / "docs" / "students.md").read_text(encoding="utf-8")
    parts = [set(re.findall("`([^`]+)`", part.partition("\n\n")[2])) for part in text.split("\n## ")[1:4]]
    assert parts == [WORKING, set(REFUSED), NOT_TRIED]


@pytest.mark.parametrize("family", FEW)
def test_a_few_families_go_through_the_method_on_all_linear_layers(family: str, tmp_path: Path) -> None:
    go_through(family, LoraSettings(r=2, alpha=4, target_modules="all-linear"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(WORKING))
def test_every_family_goes_through_the_method(family: str, tmp_path: Path) -> None:
    go_through(family, LoraSettings(r=2, alpha=4), tmp_path)


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_a_family_that_cannot(family: str, tmp_path: Path) -> None:
    """It is refused before it trains, and by `run --check`, which builds stages on the meta device."""
    student = str(write_family(family, tmp_path))
    for device in ("cpu", "meta"):
        with torch.device(device), pytest.raises(InputError, match=REFUSED[family]):
            NegativeModel(student=student).configure_model()


@pytest.mark.parametrize("family", ["bart", "t5", "whisper"])
def test_an_encoder_decoder(family: str, tmp_path: Path) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"it is an encoder-decoder, and a decoder is needed"):
        NegativeModel(student=str(tmp_path)).configure_model()
