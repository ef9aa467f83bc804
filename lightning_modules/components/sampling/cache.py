"""A key-value cache of few shapes for many rows: each row stands in a slot and writes at a position of its own.

A row of length t is the first t positions of its slot; what stands behind them is masked, and written over when another
row takes the slot. So nothing moves from one token to the next, as a captured CUDA graph needs it.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from dust2gold.core.errors import InputError

_OWN_WAYS = ("cpmant", "moshi", "prophetnet", "recurrent_gemma")
"""Types of models that take a `DynamicCache` and do not continue from it as from the text (tests/test_families.py)."""


def width_for(positions: int) -> int:
    """The width of a cache for so many positions: a multiple of 64, above 512 at most a quarter more than needed."""
    step = max(64, (1 << positions.bit_length()) // 8)
    return -(-positions // step) * step


class _Place:
    """Where all layers write their next state, [R] positions, and how many positions they show."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = torch.arange(rows, device=device)
        self.positions = torch.zeros_like(self.rows)
        self.width = 0


class _SlotLayer(DynamicLayer):
    """Keys and values [R, H_kv, capacity, d_head] of one layer; attention sees the first `width` positions of them."""

    def __init__(self, like: Any, place: _Place) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.place, self.is_initialized = place, True
        states: tuple[Tensor, Tensor] = like.keys, like.values  # [Q, H_kv, P, d_head]
        device = like.keys.device.type  # autocast's attention would cast what it gets, all of it for each token
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        self.buffers = [s.new_zeros(len(place.rows), s.shape[1], 0, s.shape[3], dtype=dtype) for s in states]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes one state a row, [R, H_kv, 1, d_head], and returns what attention sees, [R, H_kv, width, d_head]."""
        place = self.place
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[place.rows, :, place.positions] = states[:, :, 0].to(buffer.dtype)
        keys, values = (buffer[:, :, : place.width] for buffer in self.buffers)
        return keys, values

    def get_seq_length(self) -> int:
        """What a mask takes for the past of the one new token."""
        return self.place.width - 1

    def grow(self, capacity: int) -> None:
        """Makes room; a layer after the other, so that the old and the new are never both held of all."""
        for index, old in enumerate(self.buffers):
            new = old.new_zeros(*old.shape[:2], capacity, old.shape[3])  # a masked NaN would still spoil a product
            new[:, :, : old.shape[2]] = old
            self.buffers[index] = new


class SlotCache(DynamicCache):
    """The cache of R rows of a model, made like the one of a prefill of it."""

    def __init__(self, like: DynamicCache, rows: int, device: torch.device) -> None:
        super().__init__()
        self.place = _Place(rows, device)
        self._slot_layers = [_SlotLayer(layer, self.place) for layer in like.layers]
        self.layers = [*self._slot_layers]

    def bytes_a_position(self) -> int:
        """Of one row."""
        buffers = [buffer for layer in self._slot_layers for buffer in layer.buffers]
        return sum(buffer.shape[1] * buffer.shape[3] * buffer.element_size() for buffer in buffers)

    def fits(self, width: int) -> bool:
        """Whether so many positions are there."""
        return width <= self._slot_layers[0].buffers[0].shape[2]

    def show(self, width: int) -> None:
        """Shows attention the first `width` positions; there may be none yet."""
        if not self.fits(width):
            for layer in self._slot_layers:
                layer.grow(width)
        self.place.width = width

    def place_tokens(self, lengths: Tensor) -> Tensor:
        """Lets each row's next token be the last of so many [R]; the mask, to be added to scores, [R, 1, 1, width].

        Numbers, where sdpa would make them of truth values in every layer, and transformers ask if it needs them.
        """
        self.place.positions = lengths - 1
        behind = torch.arange(self.place.width, device=lengths.device) >= lengths[:, None]  # [R, width]
        dtype = self._slot_layers[0].buffers[0].dtype
        return torch.zeros_like(behind, dtype=dtype).masked_fill_(behind, -math.inf)[:, None, None]

    def write(self, slots: Tensor, prefill: DynamicCache, rows: Tensor, lengths: Tensor) -> None:
        """Puts the rows `rows` [A] of a prefill that fits, which may repeat, into the slots [A], which may not.

        They are left-padded there, and their last `lengths` [A] positions count.
        """
        width = prefill.get_seq_length()
        to = torch.arange(width, device=slots.device)  # [P]
        sources: Any = prefill.layers
        start = (to + (width - lengths)[:, None]).clamp(max=width - 1)  # [A, P]; behind the last: not seen
        for layer, source in zip(self._slot_layers, sources, strict=True):
            for buffer, states in zip(layer.buffers, (source.keys, source.values), strict=True):
                buffer[slots[:, None], :, to] = states[rows[:, None], :, start].to(buffer.dtype)  # [A, P, H_kv, d_head]

    def keep(self, rows: Tensor) -> None:
        """Keeps the rows [R'] alone."""
        self.place.rows = self.place.rows[: len(rows)]
        for layer in self._slot_layers:
            layer.buffers = [buffer[rows] for buffer in layer.buffers]


def takes_slots(model: PreTrainedModel) -> bool:
    """Whether the model reads a `SlotCache`: all layers see all positions that a mask allows, and rows have their own.

    It must be one that transformers runs with a static cache, and takes a mask of four dimensions for all it says.
    """
    config = model.config.get_text_config(decoder=True)
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    told = "position_ids" in inspect.signature(type(model).forward).parameters  # BART's kind counts the cache's
    alibi = getattr(config, "alibi", False)  # counts the tokens in the mask
    return plain and told and not alibi and bool(model._can_compile_fullgraph)


def is_recurrent(cache: DynamicCache) -> bool:
    """Whether a layer keeps a state that every token changes: padding too, so that rows must begin together."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)


def cache_argument(model: PreTrainedModel) -> str:
    """The argument of a causal LM's forward pass that takes its cache.

    Raises:
        InputError: If the model cannot write token by token from a `DynamicCache`.
    """
    kind: Any = type(model)  # transformers mixes GenerationMixin in
    known = inspect.signature(kind.forward).parameters
    names = [name for name in ("past_key_values", "cache_params") if name in known]
    takes = names and kind._supports_default_dynamic_cache() and model.config.model_type not in _OWN_WAYS
    if not takes or (model._is_stateful and not is_recurrent(DynamicCache(config=model.config))):
        problem = f"{type(model).__name__} cannot be sampled: it keeps what it has read in a way of its own"
        remedy = "take a student that keeps keys and values, or recurrent states, in transformers' DynamicCache"
        raise InputError(problem, field="model.student", remedy=remedy)
    return names[0]


def select_rows(cache: DynamicCache, rows: Any) -> None:
    """Keeps the rows `rows` [R'] of a growing cache, which may repeat."""
    layer: Any
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            layer.reorder_cache(rows)  # of its states as well as of its keys and values
        else:
            layer.batch_select_indices(rows)
