"""How to sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dust2gold.core.errors import InputError


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample.

    Args:
        samples: Samples per question.
        temperature: Divides the logits; 0 takes the most probable token (greedy).
        top_p: Keeps the smallest set of most probable tokens whose mass reaches this, after the temperature.
        max_new_tokens: Cap on the generated tokens, EOS included (reference: 1,024).
        seed: Base seed, see `sample_seed`.
        rows: Samples decoded at a time, which bounds the memory; others wait for the first to end. None: as many as a
            GPU's free memory holds, 64 elsewhere. In float32 the samples do not depend on it. vLLM chooses its own.
        exact: Give each sample the same numbers in every batch, also in bfloat16: always `rows` rows, the cache as wide
            as its question can need, prompts one by one, logits in float32. Slower (docs/performance.md).
        backend: What draws the samples of `predict` and `test`: our own decoder, or vLLM for a stage that is one plain
            LoRA (docs/performance.md).
    """

    samples: int = 1
    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 1024
    seed: int = 0
    rows: int | None = None
    backend: Literal["own", "vllm"] = "own"
    exact: bool = False

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"must be at least 1, found {value}", field=name)
        if not 0 <= self.temperature < math.inf:
            problem = f"must be finite and not negative, found {self.temperature}"
            raise InputError(problem, field="temperature", remedy="0 is greedy")
        if not 0 < self.top_p <= 1:
            remedy = "1 keeps the whole distribution"
            raise InputError(f"must be in (0, 1], found {self.top_p}", field="top_p", remedy=remedy)
        if self.exact and self.backend == "vllm":
            raise InputError(
                "vLLM does not give the same numbers in every batch", field="exact", remedy="take backend own"
            )
