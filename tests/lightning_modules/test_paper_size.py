"""The stages on a student of the paper's size, on the meta device: nothing is allocated, everything is built."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from lightning_modules.base import STUDENT
from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE, UNITS_FILE, UnitSettings
from lightning_modules.components.adapters.stack import AdapterStack
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


def write_zeros(stack: AdapterStack, name: str, directory: Path) -> None:
    """Writes an adapter of a model that stands on the meta device and so has nothing to write."""
    model: Any = stack.model
    directory.mkdir(parents=True)
    model.peft_config[name].save_pretrained(directory)
    state = get_peft_model_state_dict(model, adapter_name=name)
    zeros = {key: torch.zeros(value.shape, device="cpu") for key, value in state.items()}
    save_file(zeros, directory / "adapter_model.safetensors")


def count_trained(module: nn.Module) -> int:
    assert all(p.is_meta for p in module.parameters())
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter.*:UserWarning")
def test_llama_7b_on_the_meta_device(llama_7b: str, tmp_path: Path) -> None:
    lora, tiny = 64 * 8 * (4096 + 4096), UnitSettings(key_dim=2, bottleneck=2)
    with torch.device("meta"):
        negative = NegativeModel(student=llama_7b, random_weights=True, dtype="bfloat16")
        negative.configure_model()
        assert count_trained(negative) == lora
        assert sum(p.numel() for p in negative.parameters()) == 6_738_415_616 + lora
        write_zeros(negative.adapters, STUDENT, tmp_path / "negative")
        nat = NATModel(negative=str(tmp_path / "negative"), student=llama_7b, random_weights=True)
        nat.configure_model()
        assert count_trained(nat) == lora + 64 * 4 * 128 * 4096
        small = NATModel(negative=str(tmp_path / "negative"), units=tiny, student=llama_7b, random_weights=True)
        small.configure_model()
        write_zeros(small.adapters, POSITIVE, tmp_path / "nat" / POSITIVE)
        write_zeros(small.adapters, NEGATIVE, tmp_path / "nat" / NEGATIVE)
        units = {k: torch.zeros(v.shape, device="cpu") for k, v in small.units.state_dict().items()}
        save_file(units, tmp_path / "nat" / UNITS_FILE)
        small.adapters.write_manifest(tmp_path / "nat", {"units": {"key_dim": 2, "bottleneck": 2}})
        nce = NCEModel(nat=str(tmp_path / "nat"), student=llama_7b, random_weights=True)
        nce.configure_model()
        assert count_trained(nce) == lora
