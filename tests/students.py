"""The student of the tests."""

from __future__ import annotations

from pathlib import Path


def write_tiny_student(directory: Path) -> None:
    """Writes a random LLaMA of 2 layers with grouped-query attention, and a tokenizer of 320 pieces."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from embedded.pretrain import train_tokenizer

    tokenizer = train_tokenizer(vocabulary=320, sample=500)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
