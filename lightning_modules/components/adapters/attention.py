"""Attention of packed rows without a mask [B, 1, T, T]: torch's `varlen_attn` over their samples, or FlexAttention.

Both are functions of transformers' AttentionInterface, and take packed rows alone. Padded rows and decoding from a
cache go through them to sdpa. What a layer is given tells which: a checkpointed one is given the same again.
"""

from __future__ import annotations

from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flex_attention_mask, sdpa_mask

from dust2gold.core.errors import InputError

try:
    from torch.nn.attention import varlen

    varlen_attn: Any = varlen.varlen_attn
except ImportError:  # before torch 2.10
    varlen_attn = None

Attention = Literal["auto", "sdpa", "varlen", "flex"]
VARLEN, FLEX = "packed_varlen", "packed_flex"
"""Their names in the AttentionInterface."""

_OPTIONS = {} if varlen_attn is None else signature(varlen_attn).parameters
_GROUPED = {"enable_gqa": True} if "enable_gqa" in _OPTIONS else {}  # torch 2.11 groups queries untold
_DTYPES = torch.bfloat16, torch.float16


def refusal(problem: str) -> InputError:
    """What a user is told of an attention that cannot be had."""
    remedy = "leave it out, or give sdpa: packed rows then go through attention with a block mask"
    return InputError(problem, field="model.attention", remedy=remedy)


def take_packed(decoder: PreTrainedModel, name: str) -> None:
    """Lets packed rows go through VARLEN or FLEX from now on.

    An InputError if machine or student cannot; what only a pass can tell, such as its dtype, a pass refuses.
    """
    if problem := _machine_lacks(name, decoder.device) or _student_lacks(name, decoder):
        raise refusal(problem)
    decoder.set_attn_implementation(name)


def _machine_lacks(name: str, device: torch.device) -> str | None:
    if name == FLEX:
        return "FlexAttention does not train on a CPU" if device.type == "cpu" else None
    if "window_size" not in _OPTIONS:
        return f"varlen_attn with windows needs torch 2.11, and here is {torch.__version__}"
    flash = device.type == "cuda" and torch.backends.cuda.is_flash_attention_available()
    if not flash or torch.cuda.get_device_capability(device) < (8, 0):
        return "varlen_attn needs an NVIDIA GPU of compute capability 8.0 or more"
    return None


def _student_lacks(name: str, decoder: PreTrainedModel) -> str | None:
    own = decoder._supports_flash_attn if name == VARLEN else decoder._supports_flex_attn
    if not own or not decoder._supports_attention_backend or decoder.config._attn_implementation not in ("sdpa", name):
        return f"transformers gives {type(decoder).__name__} no other attention"
    dropout = max(getattr(decoder.config, field, None) or 0.0 for field in ("attention_dropout", "attn_pdrop"))
    return f"the student's attention drops {dropout:g} of its weights, which needs a mask" if dropout else None


def _alike(*tensors: Tensor) -> list[Tensor]:
    """In one dtype: under autocast rotary embeddings may widen queries and keys, which sdpa alone casts back."""
    kind = tensors[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensors[0].dtype
    return [each.to(dtype) for each in tensors]


def _varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Queries [1, H, N, d], keys and values [1, H_kv, N, d] of samples one after another to outputs [1, N, H, d]."""
    if cu_seq_lens_q is None:
        more = {"dropout": dropout, "scaling": scaling, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    q, k, v = (each[0].transpose(0, 1) for each in _alike(query, key, value))  # [N, H, d], [N, H_kv, d] twice
    width, own_window = q.shape[-1], _window_of(module)
    for refused, problem in (
        (
            q.dtype not in _DTYPES,
            f"varlen_attn takes bfloat16 or float16 (--trainer.precision bf16-mixed), and here is {q.dtype}",
        ),
        (width != v.shape[-1] or width % 8 != 0 or width > 256, f"varlen_attn takes no heads {width} wide"),
        (own_window != sliding_window, f"attention is not told the student's window of {own_window}"),
        (
            any(kwargs.get(each) is not None for each in ("softcap", "s_aux", "position_bias")),
            "varlen_attn has no caps, sinks and biases",
        ),
    ):
        if refused:
            raise refusal(problem)
    window = (-1 if sliding_window is None else sliding_window - 1, 0)  # tokens before a token, and after it
    samples = cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q
    return varlen_attn(q, k, v, *samples, scale=scaling, window_size=window, **_GROUPED)[None], None


def _window_of(module: Any) -> int | None:
    """The sliding window of a layer by its config."""
    config = module.config
    types, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    return window if window and (types is None or "sliding" in types[module.layer_idx]) else None


def _flex(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Queries [B, H, T, d], keys and values [B, H_kv, T, d] to outputs [B, T, H, d]."""
    if isinstance(attention_mask, BlockMask):
        query, key, value = _alike(query, key, value)
        return flex_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _flex_mask(**kwargs: Any) -> Tensor | BlockMask | None:
    """What transformers asks for once a pass: blocks where positions restart, else sdpa's mask or none."""
    packed = kwargs["attention_mask"] is None and not kwargs["allow_is_causal_skip"]
    return flex_attention_mask(**kwargs) if packed else sdpa_mask(**kwargs)


AttentionInterface.register(VARLEN, _varlen)
AttentionMaskInterface.register(VARLEN, sdpa_mask)
AttentionInterface.register(FLEX, _flex)
AttentionMaskInterface.register(FLEX, _flex_mask)
