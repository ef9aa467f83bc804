"""A tiny random student of every family of causal LMs that transformers knows."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

SIZES: dict[str, Any] = {
    **{"vocab_size": 97, "vocab_size_per_layer_input": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "emb_dim", "word_embed_proj_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim", "rotary_dim", "state_size"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dff"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16),
    **{"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "sliding_window": 8},
}
"""What sizes are called in configs; a family gets those that its own has."""

_IMAGES = {"hidden_size": 16, "intermediate_size": 16, "image_size": 28, "patch_size": 14, "num_attention_heads": 2}
_VISION = {"vision_config": {**_IMAGES, "num_hidden_layers": 1}}
_LATENT = {"num_key_value_heads": 4}  # attention with latent vectors groups no queries
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
_LINEAR = ["linear_attention", "full_attention"] * 2
_CONVOLUTIONS = {"layer_types": ["conv", "full_attention"] * 2}
_LAYERS = {"layers_block_type": ["mamba", "hybrid"] * 2}
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite"), _LATENT),
    **dict.fromkeys(("glm_moe_dsa", "minicpm3", "youtu"), _LATENT),
    **dict.fromkeys(("dots3_note", "dots3_note_text"), _LATENT),
    "bamba": {**_MAMBA, "attn_layer_indices": [1, 3]},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention"] * 2},
    **dict.fromkeys(("zamba", "zamba2"), _LAYERS),
    **dict.fromkeys(("gemma3", "got_ocr2"), _VISION),
    "bailing_hybrid": {**_LATENT, "layer_group_size": 2, "linear_head_dim": 8},
    "kimi_linear": {**_LATENT, "linear_head_dim": 8, "linear_num_heads": 4, "layer_types": _LINEAR},
    "dots1": {"n_shared_experts": 1},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm3"), _CONVOLUTIONS),
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "prophetnet": {"num_encoder_layers": 2},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}
"""What else a family needs to be small and consistent."""


FEW = ("llama", "gpt2", "gemma2", "qwen3_moe", "llama4_text", "lfm2")

_ENCODER = "it is an encoder, which sees the tokens to come"
_OWN_WAY = "cannot be sampled: it keeps what it has read in a way of its own"
REFUSED = {
    **dict.fromkeys(
        ("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie"), _ENCODER
    ),
    **dict.fromkeys(("megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roformer", "xmod"), _ENCODER),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl"), _ENCODER),
    **dict.fromkeys(("cpmant", "minimax", "moshi", "openai-gpt", "recurrent_gemma", "rwkv", "xlm", "xlnet"), _OWN_WAY),
    **dict.fromkeys(("prophetnet", "xlstm"), _OWN_WAY),
    **dict.fromkeys(("zamba", "zamba2"), "it is of the same weights as"),
}
"""Families that no stage takes, and what it says of them."""

NOT_TRIED = {
    *("blt", "cohere_compass_text", "dbrx", "deepseek_v4", "dots3_note", "dots3_note_text", "emu3", "gemma3n"),
    *("gemma4_assistant", "gemma4_unified_assistant", "git", "longcat_flash", "mllama", "moss_transcribe_diarize"),
    *("musicgen", "musicgen_melody", "phi4_multimodal", "qwen4_exp", "qwen4_exp_text", "reformer", "roc_bert"),
}
"""Families that these sizes make no small and consistent model of, or that need packages of their own."""

WORKING = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - REFUSED.keys() - NOT_TRIED


def tiny_config(family: str) -> PretrainedConfig:
    """A config of four layers; of models that see or hear, the same of their text part."""
    blank: Any = AutoConfig.for_model(family)
    text = blank.get_text_config(decoder=True)
    part = next((name for name in blank.sub_configs if getattr(blank, name, None) is text), None)
    settings = blank if part is None else text
    names = {**settings.to_dict(), **settings.attribute_map}
    sizes = {name: value for name, value in SIZES.items() if name in names}
    if "qk_rope_head_dim" in sizes:
        sizes.pop("head_dim", None)
    own = OWN.get(family, {})
    return AutoConfig.for_model(family, **({**sizes, **own} if part is None else {part: sizes, **own}))


def write_family(family: str, directory: Path) -> Path:
    """Writes the family's student, its weights large enough for its texts to differ."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family))
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.normal_(std=0.15)
    model.save_pretrained(directory)
    return directory
