"""The random numbers that choose a sample's tokens: each sample has its own, whatever else is in the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def sample_seed(base_seed: int, question_id: str, k: int) -> int:
    """A 63-bit seed for sample `k` of a question, the same on every machine, in every batch and order."""
    digest = hashlib.blake2b(f"{base_seed}\0{k}\0{question_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float = 1.0) -> Tensor:
    """Draws one token per row by inverting the cumulative distribution in the order of the vocabulary.

    Takes logits [R, V], uniforms [R] float64 in [0, 1), a positive temperature and top_p in (0, 1]; returns ids [R].
    """
    logits = logits.float()  # [R, V]
    # Shifted first, so that a tiny temperature sends the others to −inf and none to +inf.
    probabilities = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)  # [R, V]
    if top_p < 1:
        ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)  # [R, V]
        mass_before = ranked.double().cumsum(-1) - ranked  # [R, V]
        ranked = ranked.masked_fill(mass_before >= top_p, 0.0)
        probabilities = torch.empty_like(ranked).scatter_(-1, order, ranked)  # [R, V]
    cumulative = probabilities.double().cumsum(-1)  # [R, V]
    # A float64 uniform is at most 1 − 2⁻⁵³, so the product rounds below the total and a token of probability 0 is
    # never reached.
    threshold = uniforms.double()[:, None] * cumulative[:, -1:]  # [R, 1]
    drawn = torch.searchsorted(cumulative, threshold, right=True)[:, 0]  # [R]
    return drawn.clamp(max=logits.shape[-1] - 1)  # logits of NaN end up there; the log-probability then shows it


def uniform_block(seeds: Sequence[int], steps: int) -> Tensor:
    """Random numbers [R, steps], float64 in [0, 1), row r from seeds[r] alone; more steps only lengthen the rows.

    They are drawn on the CPU whatever the model runs on: every device sees the same numbers. (PyTorch's CPU generator
    keeps the lower 32 bits of a seed: of N samples about N²/2³³ pairs share their numbers, rarely on one question.)
    """
    block = torch.empty(len(seeds), steps, dtype=torch.float64)  # [R, steps]
    generator = torch.Generator()
    for row, seed in zip(block, seeds, strict=True):
        generator.manual_seed(seed)
        row.uniform_(generator=generator)
    return block
