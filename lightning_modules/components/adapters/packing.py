"""How a decoder is run on padded and on packed rows: if it needs a mask, and if it keeps packed samples apart.

One that does not would silently train on what it should not see. transformers masks packed rows by their position ids.
Decoders that take none (OPT, BLOOM and others with ALiBi) attend
to the samples before; recurrent layers (Mamba, Qwen3-Next, Falcon-H1) carry their state on from one to the next.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dust2gold.core.errors import InputError, reason
from dust2gold.core.text import say
from lightning_modules.components.adapters.attention import FLEX, VARLEN, Attention, refusal, take_packed
from lightning_modules.components.adapters.quantization import quantization_of
from lightning_modules.components.evaluation import evaluating
from lightning_modules.components.losses.model_head import decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FIRST, _SECOND = 16, 8
"""Tokens of the two samples: few, for a recurrent layer forgets within a long one."""


def hidden_states(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
    sample_bounds: tuple[Tensor, int] | None = None,
) -> Tensor:
    """Last hidden states [B, T, d] of a causal LM, after its final norm. LoRA layers stand inside and take part.

    Right-padded rows [B, T] need no attention mask where `needs_mask` says so: no token attends to what follows it, and
    without a mask attention may take a faster kernel. Packed rows hold several samples one after the other.
    transformers keeps attention inside each when it gets position ids that restart at each sample and no attention
    mask: by a block-diagonal causal mask (sdpa, eager, flex), which covers padding at the end too. Variable-length
    attention takes all rows as one and needs no mask: `sample_bounds` is where in it samples begin [N + 1] int32 and
    the longest's length, as the collator says; without it they are read off the position ids, for which the host waits.
    """
    decoder = decoder_of(model)
    if position_ids is None:
        output = decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    elif decoder.config._attn_implementation == VARLEN:
        bounds, longest = sample_bounds or _bounds_of(position_ids)
        output = decoder(
            input_ids=input_ids.view(1, -1),
            position_ids=position_ids.reshape(1, -1),
            attention_mask=position_ids.new_ones(1, 1, 1, 1, dtype=torch.bool),  # stands in for one: else it is made
            cu_seq_lens_q=bounds,
            max_length_q=longest,
            use_cache=False,
        )
    else:
        output = decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False)
    hidden: Tensor = output.last_hidden_state  # [B, T, d], or [1, B·T, d]
    return hidden.view(*input_ids.shape, -1)  # [B, T, d]


@torch.no_grad()
def needs_mask(model: PreTrainedModel) -> bool:
    """Whether padding on the right changes hidden states at real tokens unless a mask says what it is.

    In a causal decoder it does not. Two short passes in evaluation mode, as in `check_packing`.
    """
    if model.device.type == "meta":
        return True
    ids = _token_ids(model)  # [1, T]
    mask = (torch.arange(ids.shape[1], device=ids.device) < _FIRST).long()[None]  # [1, T]
    with evaluating(model):
        masked, plain = (hidden_states(model, ids, each)[:, :_FIRST] for each in (mask, None))
    return not _difference(plain, masked) <= _tolerance(model, masked)


def prepare_packing(model: PreTrainedModel, attention: Attention) -> None:
    """Chooses how packed rows go through attention, and checks that samples stay apart; `auto` says what it took.

    An InputError if the student mixes samples, or cannot have the attention that was asked for.
    """
    if model.device.type == "meta":
        return
    if attention == "sdpa":
        check_packing(model)
    elif attention != "auto":
        _prepare(model, FLEX if attention == "flex" else VARLEN)
    else:
        decoder, taken = decoder_of(model), "torch's varlen_attn"
        own = decoder.config._attn_implementation
        try:
            _prepare(model, VARLEN)
        except InputError as error:
            if decoder.config._attn_implementation != own:
                decoder.set_attn_implementation(own)
            check_packing(model)
            taken = f"a block mask ({error.problem})"
        if not (torch.distributed.is_initialized() and torch.distributed.get_rank()):
            say(f"attention of packed rows: {taken}", sys.stderr)


def _prepare(model: PreTrainedModel, name: str) -> None:
    take_packed(decoder_of(model), name)
    try:
        check_packing(model)
    except (RuntimeError, TypeError, ValueError) as error:  # what no flag of transformers and torch has told
        raise refusal(reason(error)) from error


def _bounds_of(position_ids: Tensor) -> tuple[Tensor, int]:
    starts = (position_ids.flatten() == 0).nonzero()[:, 0]  # [N]
    bounds = torch.cat([starts, starts.new_tensor([position_ids.numel()])]).int()  # [N + 1]
    return bounds, int(bounds.diff().max())


@torch.no_grad()
def check_packing(model: PreTrainedModel) -> None:
    """Refuses, with an InputError, a decoder whose hidden states of a sample depend on the one it is packed behind.

    A short pass of two packed rows, whose first samples differ, and one of the second sample alone, in evaluation
    mode; draws no random numbers. Under FSDP2 all processes come here together, as to any pass.
    """
    if model.device.type == "meta":
        return
    ids = _token_ids(model)  # [1, T]
    other = torch.cat([ids[:, :_FIRST].flip(1), ids[:, _FIRST:]], 1)  # [1, T]
    rows = torch.cat([ids, other])  # [2, T]
    positions = torch.cat([torch.arange(n, device=model.device) for n in (_FIRST, _SECOND)]).expand_as(rows)  # [2, T]
    with evaluating(model):
        packed, beside = hidden_states(model, rows, torch.ones_like(rows), positions).chunk(2)  # [1, T, d] each
        alone = hidden_states(model, ids[:, _FIRST:], torch.ones_like(ids[:, _FIRST:]))
    packed, beside = packed[:, _FIRST:], beside[:, _FIRST:]
    difference = max(_difference(packed, beside), _difference(packed, alone))
    if not difference <= _tolerance(model, alone):
        raise InputError(
            f"{type(model).__name__} does not keep packed samples apart: beside another one a sample's hidden states "
            f"differ by {difference:.1%}",
            field="data.packing",
            remedy="leave it out; --data.tokens_per_batch keeps padding small without it",
        )


def _token_ids(model: PreTrainedModel) -> Tensor:
    """[1, T] ids from all over the vocabulary."""
    vocabulary, length = int(model.config.get_text_config(decoder=True).vocab_size), _FIRST + _SECOND
    return torch.arange(length, device=model.device)[None] * max(1, vocabulary // length) % vocabulary


def _difference(one: Tensor, other: Tensor) -> float:
    """Root mean square, relative to that of `other`."""
    wide = other.double()
    return float((one.double() - wide).square().mean().sqrt() / wide.square().mean().sqrt())


def _tolerance(model: PreTrainedModel, hidden: Tensor) -> float:
    """What rows of another width, or experts with other tokens, change by rounding; leaks are 10% and more."""
    half = torch.finfo(hidden.dtype).bits == 16 or torch.is_autocast_enabled(hidden.device.type)
    return 0.05 if half or quantization_of(model) != "none" else 5e-4
