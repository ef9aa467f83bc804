"""A key-value cache whose decoding step writes one position in place instead of copying the whole cache."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """A full-attention cache layer that keeps spare room behind its last position.

    The stock layer concatenates at each token, so T tokens cost O(T²) copies. This one grows by `room` positions at a
    time; `keys` and `values` stay the stock layer's tensors [B, H_kv, T, d_head], as views of the larger buffers.

    Args:
        room: Positions to add when the buffers are full.
    """

    def __init__(self, room: int = 64) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends the states [B, H_kv, t, d_head] and returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self.buffers is None or self.buffers[0].shape[-2] < end:
            self.buffers = (
                _grown(self.keys, key_states, start, end + self.room),
                _grown(self.values, value_states, start, end + self.room),
            )
        keys, values = self.buffers
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row `repeats` times; the room comes back with the next token."""
        super().batch_repeat_interleave(repeats)
        self.buffers = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the rows `indices` [B'] and the room behind them, with one copy."""
        if self.buffers is None:
            super().batch_select_indices(indices)
            return
        end, old = self.get_seq_length(), self.buffers
        self.buffers = (old[0].index_select(0, indices), old[1].index_select(0, indices))
        self.keys, self.values = self.buffers[0][:, :, :end], self.buffers[1][:, :, :end]


def _grown(old: Tensor | None, states: Tensor, start: int, capacity: int) -> Tensor:
    """An empty buffer [B, H_kv, capacity, d_head] that begins with the `start` positions of `old`."""
    batch, heads, _, width = states.shape
    buffer = states.new_empty(batch, heads, capacity, width)
    if old is not None and start:
        buffer[:, :, :start] = old
    return buffer


def roomy_cache(config: Any) -> DynamicCache:
    """The cache transformers would make for `config`, its plain full-attention layers replaced by `RoomyLayer`.

    Sliding-window, linear-attention and other special layers stay the stock ones.
    """
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
