"""vLLM's engine in the place of our decoder: it draws the samples of one plain LoRA, or of a base alone.

Written against vLLM's source (`vllm/sampling_params.py` at commit 00388f65), never run with it: docs/performance.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer

from dust2gold.core.errors import InputError, reason
from dust2gold.core.foreign_errors import loading
from dust2gold.core.students import locate_student
from lightning_modules.components.sampling.decoder import Prompts
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.components.sampling.slots import Completion

OWN = "take --model.sampling.backend own"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `max_lora_rank` may be."""


class VllmEngine:
    """A base in vLLM, and an adapter on it; the GPU's memory is given back when nothing refers to it any more.

    Args:
        student: The base: `embedded`, a directory or a hub name.
        adapter: Directory of a stock LoRA; None samples the base.
        dtype: Of the base's weights; vLLM casts the adapter to it.
        rank: The adapter's largest rank.
        config: The base's config, for the length of its context.
        device: The GPU to run on, as this process counts them.
    """

    training = False  # as `sample_each` asks of every model

    def __init__(
        self, student: str, adapter: str | None, dtype: str, rank: int, config: Any, device: torch.device
    ) -> None:
        self._vllm = find_vllm()
        self.config = config
        lora: dict[str, Any] = {}
        self._request = None
        if adapter is not None:
            lora = {"enable_lora": True, "max_lora_rank": min((r for r in _RANKS if r >= rank), default=rank)}
            request = import_module("vllm.lora.request").LoRARequest
            self._request = request("student", 1, str(Path(adapter).expanduser().resolve()))
        # Log-probabilities before temperature and top-p, as our records hold them; not the default of all versions.
        options = {"dtype": dtype, "logprobs_mode": "raw_logprobs", **lora}
        with _seeing_only(device), loading("the student into vLLM", student, f"{OWN}, or a newer vLLM"):
            self._llm = self._vllm.LLM(model=locate_student(student), **options)

    def complete(
        self, prompts: Prompts, seeds: Sequence[int], settings: SamplingSettings, ends: Collection[int]
    ) -> Iterator[Completion]:
        """Draws `settings.samples` for each prompt, all at once, and gives them in their order; `seeds` are Q·n."""
        limits = prompts.limits.tolist()
        ids = [row[kept].tolist() for row, kept in zip(prompts.ids, prompts.mask.bool(), strict=True)]
        asked, parameters = [], []
        for number, seed in enumerate(seeds):  # prefix caching computes a prompt once for its samples
            question = number // settings.samples
            asked.append({"prompt_token_ids": ids[question]})
            parameters.append(
                self._vllm.SamplingParams(
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    seed=seed,
                    max_tokens=limits[question],
                    stop_token_ids=list(ends),
                    ignore_eos=True,  # these end it, and not those of the model's generation_config.json
                    logprobs=0,  # of the token that was drawn alone
                    detokenize=False,
                )
            )
        outputs = self._llm.generate(asked, parameters, use_tqdm=False, lora_request=self._request)
        for number, output in enumerate(outputs):
            (one,) = output.outputs
            tokens = list(one.token_ids)
            yield Completion(number, tokens, one.cumulative_logprob, tokens[-1] in ends)


def find_vllm() -> Any:
    """The module; an InputError where it cannot be imported."""
    try:
        return import_module("vllm")
    except ImportError as error:
        remedy = f"install vLLM (docs.vllm.ai says which one fits your CUDA), or {OWN}"
        raise InputError(f"no vLLM here ({reason(error)})", field="model.sampling.backend", remedy=remedy) from error


def largest_rank(layers: Iterable[LoraLayer], name: str) -> int:
    """The largest rank of adapter `name`; an InputError where its layers are scaled differently."""
    shapes = {(layer.r[name], layer.scaling[name]) for layer in layers}
    if len({scaling for _, scaling in shapes}) > 1:
        raise InputError(
            "vLLM scales all layers alike, and this adapter has a rank_pattern or an alpha_pattern",
            field="model.sampling.backend",
            remedy=OWN,
        )
    return int(max(rank for rank, _ in shapes))


@contextlib.contextmanager
def _seeing_only(device: torch.device) -> Iterator[None]:
    """Shows one GPU alone to the process that vLLM starts in the block: it takes the first one it sees."""
    name, before = "CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES")
    if device.type == "cuda":
        index = device.index or 0
        os.environ[name] = before.split(",")[index] if before else str(index)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
