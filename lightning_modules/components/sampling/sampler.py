"""n rationales per question from one prefill, each from a seed of its own (docs/method.md, stages 2 and 3).

As samples end, others take their slots (`decoder.py`): long answers do not keep ended ones in the batch.

A sample depends on its prompt, its seed and the settings only, never on the rows it happened to be batched with: a
resumed or re-sharded run writes the same samples. (Up to rounding: products and attention of other shapes differ in the
last bits, which moves a token when its uniform falls within about 1e-7 of a boundary; in bfloat16, within about 1e-2.
`settings.exact` keeps the shapes, too.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.sampling.decoder import Decoder, Prompts
from lightning_modules.components.sampling.rng import sample_seed
from lightning_modules.components.sampling.settings import SamplingSettings
from lightning_modules.components.sampling.slots import Completion
from lightning_modules.components.sampling.vllm_engine import VllmEngine


@dataclass(slots=True)  # not frozen: Lightning moves the fields of what predict_step returns
class Sample:
    """One generated rationale.

    Attributes:
        question_index: Row of the question in the batch.
        k: Number of the sample within its question, from 0.
        token_ids: The generated tokens without EOS.
        logprob: Natural log-probability of the generated tokens, EOS included, under the model's full distribution at
            temperature 1, whatever temperature and top-p drew them.
        tokens: Number of generated tokens, EOS included.
        seed: Seed of its random numbers (unused by greedy decoding).
        finished: Whether it ended in EOS and not at the cap.
        text: What it says, where `Trainer.predict` returns it.
    """

    question_index: int
    k: int
    token_ids: list[int]
    logprob: float
    tokens: int
    seed: int
    finished: bool
    text: str | None = None


@torch.inference_mode()
def sample_each(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    question_ids: Sequence[str],
    eos_token_id: int | Sequence[int],
    pad_token_id: int,
    settings: SamplingSettings,
) -> Iterator[list[Sample]]:
    """Generates `settings.samples` rationales for each prompt and yields each question's as soon as all have ended.

    Args:
        model: A Hugging Face causal language model or a `PeftModel` around one, in eval mode; or vLLM's engine.
        input_ids: [Q, P] int64 prompts, left-padded; neighbours of similar length waste least.
        attention_mask: [Q, P], 0 at the padding.
        question_ids: Q ids, from which the seeds are made.
        eos_token_id: The token or tokens that end a rationale.
        pad_token_id: What ended rows are fed while they stay in the batch.
        settings: How to sample. A prompt that leaves less than `max_new_tokens` of the context gets what is left.

    Raises:
        InputError: If a prompt fills the model's context, or the model's numbers are not finite.
        ValueError: If the model is in training mode or the prompts are not left-padded.
    """
    if model.training:
        raise ValueError("sampling needs the model in eval mode: dropout would change the samples")
    if not bool(attention_mask[:, -1].all()):
        raise ValueError("the prompts must be left-padded")
    n, mask = settings.samples, attention_mask.long()  # [Q, P]
    limits = _token_limits(model.config, mask.sum(1), question_ids, settings.max_new_tokens)  # [Q]
    seeds = [sample_seed(settings.seed, question, k) for question in question_ids for k in range(n)]
    ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)
    by_question: dict[int, list[Sample]] = {}
    prompts = Prompts(input_ids, mask, limits)
    completions: Iterable[Completion]
    if isinstance(model, VllmEngine):
        completions = model.complete(prompts, seeds, settings, ends)
    else:
        eos = torch.tensor(ends, device=input_ids.device)  # [E]
        completions = Decoder(model, prompts, seeds, settings, eos, pad_token_id)
    for number, tokens, logprob, finished in completions:
        question, k = divmod(number, n)
        if not math.isfinite(logprob):
            raise InputError(
                f"the model's probabilities are no numbers (question '{question_ids[question]}')",
                field="model",
                remedy="look for NaN in the weights of the student and its adapter; "
                "in float16 they may overflow: take bfloat16 or float32",
            )
        samples = by_question.setdefault(question, [])
        ids = tokens[:-1] if finished else tokens
        samples.append(Sample(question, k, ids, logprob, len(tokens), seeds[number], finished))
        if len(samples) == n:
            yield sorted(by_question.pop(question), key=lambda sample: sample.k)


def _token_limits(config: Any, prompt_lengths: Tensor, question_ids: Sequence[str], max_new_tokens: int) -> Tensor:
    """[Q] new tokens each prompt may have, from its own length: padding takes no positions."""
    context: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if context is None:
        return torch.full_like(prompt_lengths, max_new_tokens)
    limits = (context - prompt_lengths).clamp(max=max_new_tokens)  # [Q]
    for question, length, limit in zip(question_ids, prompt_lengths.tolist(), limits.tolist(), strict=True):
        if limit < 1:
            raise InputError(
                f"the prompt of question '{question}' has {length} tokens and the model's context is {context}",
                field="question",
                remedy="shorten the question, leave it out, or take a student with a longer context",
            )
    return limits
