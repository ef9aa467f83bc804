from typing import Any

import lightning as L
import pytest
import torch
from torch._dynamo.utils import counters

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters import compiled
from lightning_modules.components.adapters.compiled import WIDTH, CompiledLayers, widened
from lightning_modules.components.adapters.stack import LoraSettings
from tests.lightning_modules.steps import loader, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def packed(make_batch: Any) -> dict[str, Any]:
    """Two rows of two samples each."""
    batch = make_batch((12, 12))
    half = torch.arange(6).repeat(2)  # [T]
    batch["labels"][:, 6] = -100
    segments = torch.tensor([[0] * 6 + [1] * 6, [2] * 6 + [3] * 6])
    return {**batch, "position_ids": half.expand(2, -1), "segments": segments, "ids": list("abcd")}


@pytest.mark.parametrize(("stage", "checkpointing"), [("negative", False), ("nat", True), ("nce", False)])
def test_steps_are_the_same_and_nothing_is_compiled_twice(
    make_stage: Any, make_batch: Any, monkeypatch: pytest.MonkeyPatch, stage: str, checkpointing: bool
) -> None:
    """Adapters are switched twice in each of NCE's steps. The backend keeps to torch's own operations."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    module = make_stage(stage, lora=LoraSettings(r=4, dropout=0.0), gradient_checkpointing=checkpointing)
    names, batch, found = list(module.state_dict()), packed(make_batch), []
    for layers in (None, CompiledLayers(module.adapters.base)):
        module.adapters.compiled = layers
        module.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        found.append([loss, *(p.grad for p in module.parameters() if p.requires_grad)])
    assert counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    counters.clear()
    for _ in range(2):
        module.training_step(batch, 0).backward()
    assert not counters["stats"]
    assert not counters["graph_break"]
    assert list(module.state_dict()) == names
    for unit in module.units.values() if stage == "nat" else ():
        seen: list[Any] = []
        unit.register_forward_hook(lambda *args, seen=seen: seen.append(args))
        module.training_step(batch, 0)
        assert seen, "a monitor sees nothing of a compiled unit"


class Rows(L.LightningDataModule):
    """Gives one packed batch again and again."""

    packing = True

    def __init__(self, batch: dict[str, Any]) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> Any:
        return loader(*[self.batch] * 4)


def test_a_plain_run_goes_on_from_a_compiled_ones_checkpoint(
    make_stage: Any, make_batch: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    saved, stages = tmp_path / "two.ckpt", []
    for compiles in (True, False, False):
        torch.manual_seed(0)
        lora = LoraSettings(r=4, dropout=0.0)
        stages.append(make_stage("negative", lora=lora, compile=compiles, schedule="constant"))
    one, other, plain = stages
    trainer = quiet_trainer(tmp_path, max_steps=2)
    trainer.fit(one, Rows(packed(make_batch)))
    trainer.save_checkpoint(saved)
    assert counters["stats"]["unique_graphs"] > 0
    assert one.adapters.compiled is None
    quiet_trainer(tmp_path, max_steps=4).fit(other, Rows(packed(make_batch)), ckpt_path=saved)
    quiet_trainer(tmp_path, max_steps=4).fit(plain, Rows(packed(make_batch)))
    for (name, found), wanted in zip(other.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5, msg=name)


def test_rows_become_as_wide_as_a_multiple() -> None:
    for width, wide in ((1, WIDTH), (WIDTH, WIDTH), (WIDTH + 1, 2 * WIDTH)):
        assert widened(torch.ones(2, width)).shape == (2, wide)


def test_batches_of_many_widths_are_refused(make_stage: Any, make_batch: Any, tmp_path: Any) -> None:
    module = make_stage("negative", compile=True)
    with pytest.raises(InputError, match=r"differ in width.*\n.*--data.packing true"):
        quiet_trainer(tmp_path, max_steps=1).fit(module, loader(make_batch()))
    assert module.adapters.compiled is None


@pytest.mark.parametrize("attention", ["varlen", "flex"])
def test_attention_without_a_block_mask_is_refused(
    make_stage: Any, make_batch: Any, tmp_path: Any, attention: str
) -> None:
    module = make_stage("negative", compile=True, attention=attention)
    with pytest.raises(InputError, match=rf"not attention '{attention}'\n.*--model.attention sdpa"):
        quiet_trainer(tmp_path, max_steps=1).fit(module, Rows(packed(make_batch)))
