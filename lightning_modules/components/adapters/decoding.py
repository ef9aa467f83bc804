"""How a decoder is run: hidden states of padded rows and of packed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def hidden_states(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None
) -> Tensor:
    """Last hidden states [B, T, d] of a causal LM, after its final norm. LoRA layers stand inside and take part.

    Packed rows hold several samples one after the other. transformers keeps attention inside each when it gets position
    ids that restart at each sample and no attention mask: as a block-diagonal causal mask (sdpa, eager, flex), which
    covers padding at the end too, or, under flash attention, as sequence lengths, which it reads off a single row.
    Not every decoder heeds them: `packing.check_packing`.

    Args:
        model: The causal LM.
        input_ids: [B, T] int64.
        attention_mask: [B, T], 1 at real tokens; not needed where there are `position_ids`.
        position_ids: [B, T] int64 of packed rows, 0 at the start of every sample.
    """
    decoder = model.get_decoder()
    if position_ids is None:
        output = decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    elif "flash" in str(model.config._attn_implementation):
        output = decoder(input_ids=input_ids.view(1, -1), position_ids=position_ids.view(1, -1), use_cache=False)
    else:
        output = decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False)
    hidden: Tensor = output.last_hidden_state  # [B, T, d], or [1, B·T, d]
    return hidden.view(*input_ids.shape, -1)  # [B, T, d]
