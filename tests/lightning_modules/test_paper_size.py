"""The stages on a student of the paper's size, on the meta device: nothing is allocated, everything is built."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import T5Config

from dust2gold.core.errors import InputError
from lightning_modules.base import StudentModule
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings, load_base
from lightning_modules.components.ranking.backbones import DecoderSettings, EncoderSettings
from lightning_modules.components.ranking.ranker import Ranker, load_ranker
from lightning_modules.nat import NATModel
from lightning_modules.nce import NCEModel
from lightning_modules.negative import NegativeModel


@pytest.fixture
def llama_7b(tmp_path: Path) -> str:
    """A directory with nothing but the config of a model of LLaMA-7B's shape."""
    from transformers import LlamaConfig

    widths: dict[str, Any] = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
    counts: dict[str, Any] = {"num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048}
    LlamaConfig(**widths, **counts, pad_token_id=0).save_pretrained(tmp_path / "llama-7b")
    return str(tmp_path / "llama-7b")


def count_trained(module: nn.Module) -> int:
    assert all(p.is_meta for p in module.parameters())
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_llama_7b_on_the_meta_device(llama_7b: str, tmp_path: Path) -> None:
    """Adapters are handed on by their configs alone."""
    lora = 64 * 8 * (4096 + 4096)

    def written(module: StudentModule, name: str) -> str:
        (tmp_path / name).mkdir()
        module.write_adapter(tmp_path / name)
        assert not list((tmp_path / name).rglob("*.safetensors"))
        return str(tmp_path / name)

    with torch.device("meta"):
        negative = NegativeModel(student=llama_7b, dtype="bfloat16")
        negative.configure_model()
        assert count_trained(negative) == lora
        assert sum(p.numel() for p in negative.parameters()) == 6_738_415_616 + lora
        nat = NATModel(negative=written(negative, "negative"), student=llama_7b)
        nat.configure_model()
        assert count_trained(nat) == lora + 64 * 4 * 128 * 4096
        trained = NATModel(adapter=written(nat, "nat"), student=llama_7b)
        trained.configure_model()
        assert count_trained(trained) == count_trained(nat)
        nce = NCEModel(nat=str(tmp_path / "nat"), student=llama_7b)
        nce.configure_model()
        assert count_trained(nce) == lora
        with pytest.raises(InputError, match="no NAT here"):
            NCEModel(nat=str(tmp_path / "negative"), student=llama_7b).configure_model()
        narrow = NegativeModel(student=llama_7b, lora=LoraSettings(target_modules=["q_proj"]))
        narrow.configure_model()
        with pytest.raises(InputError, match=r"M_neg does not adapt layer .*v_proj"):
            NATModel(negative=written(narrow, "narrow"), student=llama_7b).configure_model()
    with pytest.raises(InputError, match="no adapter here"):  # elsewhere the weights are wanted
        AdapterStack(load_base("embedded"), "embedded").load("negative", tmp_path / "negative")


def test_a_ranker_on_the_meta_device(tmp_path: Path) -> None:
    T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, vocab_size=9).save_pretrained(tmp_path / "t5")
    with torch.device("meta"):
        for settings in (DecoderSettings(), EncoderSettings(str(tmp_path / "t5"))):
            ranker = Ranker(settings)
            (tmp_path / settings.kind).mkdir()
            ranker.save(tmp_path / settings.kind)
            again = load_ranker(tmp_path / settings.kind, settings)
            assert {n: p.shape for n, p in again.named_parameters()} == {
                n: p.shape for n, p in ranker.named_parameters()
            }
    assert not list(tmp_path.rglob("*.safetensors"))
