"""A key-value cache for many rows: a step writes one position in place, and new rows replace ended ones.

All rows end at the same position, whatever their lengths: a row of length t is the last t positions, and what stands
before them is masked. So a row that joins late lies beside the others without a gap, and the cache is never longer than
its longest unfinished row.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from dust2gold.core.errors import InputError

_OWN_WAYS = ("cpmant", "moshi", "prophetnet", "recurrent_gemma")
"""Types of models that take a `DynamicCache` and do not continue from it as from the text (tests/test_families.py)."""


class PreallocatedLayer(DynamicLayer):
    """A full-attention cache layer with spare capacity behind its last position.

    The stock layer concatenates at each token, so T tokens cost O(T²) copies. This one grows by `spare` positions at a
    time; `keys` and `values` stay the stock layer's tensors [B, H_kv, T, d_head], as views of the larger buffers.
    """

    def __init__(self, spare: int = 64) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spare = spare
        self.buffers: list[Tensor] = []  # keys and values, [B, H_kv, capacity, d_head] each; none before the prefill
        self.start = 0  # of the views within the buffers

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends the states [B, H_kv, t, d_head] and returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length, new = self.get_seq_length(), key_states.shape[-2]
        end = self.start + length + new
        if not self.buffers or self.buffers[0].shape[-2] < end:
            self._reallocate(key_states, value_states, length, length, length + new + self.spare)
            end = length + new
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, end - new : end] = states
        self._set_views(self.start, end)
        return self.states()

    def states(self) -> tuple[Tensor, Tensor]:
        """All keys and values so far, [B, H_kv, T, d_head]."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the rows `indices` [B'], which may repeat, and the spare capacity, with one copy."""
        if self.buffers:
            length = self.get_seq_length()
            # [B', H_kv, capacity − start, d_head]
            self.buffers = [buffer[:, :, self.start :].index_select(0, indices) for buffer in self.buffers]
            self._set_views(0, length)

    def replace(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Writes other rows [A, H_kv, t, d_head] over the rows `slots` [A], right-aligned with all others."""
        length, new = self.get_seq_length(), keys.shape[-2]
        end = self.start + length
        if end < new:  # space in front, for rows longer than all there are
            end = max(length, new)
            self._reallocate(*self.states(), length, end, end + self.spare)
        for buffer, rows in zip(self.buffers, (keys, values), strict=True):
            buffer[slots, :, end - new : end] = rows
        self._set_views(end - max(length, new), end)

    def trim(self, length: int) -> None:
        """Forgets all but the last `length` positions, which no row needs any more."""
        surplus = self.get_seq_length() - length
        if surplus > 0:
            self._set_views(self.start + surplus, self.start + surplus + length)

    def _set_views(self, start: int, end: int) -> None:
        self.start = start
        self.keys, self.values = (buffer[:, :, start:end] for buffer in self.buffers)  # [B, H_kv, end − start, d_head]

    def _reallocate(self, keys: Tensor, values: Tensor, length: int, end: int, capacity: int) -> None:
        """Makes buffers of `capacity` positions for keys and values like these; copies what there is before `end`."""
        new = [like.new_empty(*like.shape[:2], capacity, like.shape[-1]) for like in (keys, values)]
        for buffer in new:
            buffer[:, :, : end - length] = 0  # a masked NaN would still spoil a product
        if length:
            for buffer, old in zip(new, self.states(), strict=True):
                buffer[:, :, end - length : end] = old
        self.buffers, self.start = new, end - length


def preallocated_cache(config: Any) -> DynamicCache:
    """The cache transformers would make for `config`, its plain full-attention layers replaced by `PreallocatedLayer`.

    Sliding-window, linear-attention and other special layers stay the stock ones.
    """
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


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
    """Keeps the rows `rows` [R'] of a cache, which may repeat."""
    layer: Any
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            layer.reorder_cache(rows)  # of its states as well as of its keys and values
        else:
            layer.batch_select_indices(rows)


def takes_new_rows(cache: DynamicCache) -> bool:
    """Whether `replace_rows` works: special layers keep more about their rows than keys and values."""
    return all(type(layer) is PreallocatedLayer for layer in cache.layers)


def replace_rows(cache: DynamicCache, slots: Tensor, other: DynamicCache, rows: Tensor, length: int) -> None:
    """Writes the rows `rows` [A] of another cache, which may repeat, over the rows `slots` [A], which may not.

    Both caches are of one model and take new rows; `length` positions are kept, those of the longest unfinished row.
    """
    for layer, source in zip(cache.layers, other.layers, strict=True):
        assert isinstance(layer, PreallocatedLayer)
        assert isinstance(source, PreallocatedLayer)
        keys, values = source.states()  # [Q, H_kv, T, d_head]
        layer.replace(slots, keys[rows], values[rows])
        layer.trim(length)


def trim_rows(cache: DynamicCache, length: int) -> None:
    """Forgets all but the last `length` positions where `takes_new_rows`; leaves other caches alone."""
    if takes_new_rows(cache):
        for layer in cache.layers:
            if isinstance(layer, PreallocatedLayer):
                layer.trim(length)
