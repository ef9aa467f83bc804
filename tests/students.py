"""The student of the tests, and adapters without checksums."""

import json
from pathlib import Path
from typing import Any


def write_tiny_student(directory: Path, width: int = 32) -> None:
    """Writes a random LLaMA of 2 layers with grouped-query attention, `width` wide, and a tokenizer of 320 pieces."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from dust2gold.demo.pretrain import train_tokenizer

    tokenizer = train_tokenizer(vocabulary=320, sample=500)
    shape: dict[str, Any] = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape, **ends)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def unsign(directory: Path) -> None:
    """Takes the checksums out of an adapter directory's manifests: what comes next must hold without them."""
    for file in directory.rglob("dust2gold.json"):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        manifest.pop("sha256", None)
        file.write_text(json.dumps(manifest), encoding="utf-8")
