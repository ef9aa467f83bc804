"""Finds a causal LM's output head; the head for models whose logits are no plain product W h."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from dust2gold.core.errors import InputError
from lightning_modules.components.evaluation import evaluating
from lightning_modules.components.losses.output_head import (
    Head,
    OutputHead,
    TeacherTargets,
    TopK,
    chunks,
    divergence_of,
    wide,
)

_LARGE_LOGIT = 1024.0
"""Beyond any cap in use (Gemma: 30), within float16."""


class ModelHead(Head):
    """Logits by the causal LM's own forward pass with the decoder left out.

    Chunked, and recomputed in the backward pass: memory stays O(chunk), at one product more than `OutputHead`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, V] of hidden states [n, d], float32 or wider."""
        with patch.object(decoder_of(self.model), "forward", return_value=MoeModelOutputWithPast(hidden[None])):
            ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[0]  # [n, V]
        return logits.to(wide(logits.dtype))

    def logprobs(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """From the logits, [N]."""

        def chosen(rows: Tensor, targets: Tensor) -> Tensor:
            return self.logits(rows).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)  # [n]

        return self.chunked(chosen, hidden, tokens)

    @torch.no_grad()
    def teacher_targets(
        self, nat: Tensor, negative: Tensor | None, temperature: float = 1.0, top_k: int | None = None
    ) -> TeacherTargets:
        """The summary is M_NAT's hidden state [N, d]; an InputError if `top_k` is given."""
        if top_k is not None:
            problem = "top_k needs an output head without bias and soft-capping"
            remedy = "take float16 or float32 for this student"
            raise InputError(problem, field="model.cache.storage", remedy=remedy)
        divergence = None
        if negative is not None:
            divergence = self.chunked(lambda p, q: divergence_of(self.logits(p), self.logits(q)), negative, nat)  # [N]
        return TeacherTargets(nat.detach().to(wide(nat.dtype)), divergence)

    def distillation_terms(
        self, hidden: Tensor, tokens: Tensor, summary: Tensor | TopK, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Both from logits, the teacher's too."""
        assert isinstance(summary, Tensor), "`teacher_targets` makes no other"

        def soft(student: Tensor, teacher: Tensor) -> Tensor:
            with torch.no_grad():
                p = (self.logits(teacher.to(student.dtype)) / temperature).softmax(-1)  # [n, V]
            return -(p * (self.logits(student) / temperature).log_softmax(-1)).sum(-1)  # [n]

        return self.logprobs(hidden, tokens), self.chunked(soft, hidden, summary)

    def chunked(self, function: Callable[[Tensor, Tensor], Tensor], one: Tensor, other: Tensor) -> Tensor:
        """A function of rows [n, d] of two tensors [N, d], by chunks that the backward pass computes again: [N]."""
        parts = [
            cast(Tensor, checkpoint(function, one[rows], other[rows], use_reentrant=False))
            for rows in chunks(len(one), 4 * self.vocabulary, one.device)  # four tensors of logits at a time
        ]
        return torch.cat(parts) if parts else one.sum(-1).to(wide(one.dtype))


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """A causal LM without its output head; `get_decoder` gives the whole of Llama 4, and ModernBERT's head."""
    candidates = [model.get_decoder(), *model.children()]
    return next(each for each in candidates if isinstance(each, PreTrainedModel) and each is not model)


def find_head(model: PreTrainedModel) -> Head:
    """The head of a causal LM, checked against the model's own logits on a few tokens; draws no random numbers.

    An InputError if an adapter changes the head, or the logits do not follow from the last hidden states.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear) or any(p.requires_grad for p in layer.parameters()):
        problem = f"the student's output head must be frozen and plain, found {type(layer).__name__}"
        remedy = "adapt layers inside the decoder, e.g. q_proj and v_proj"
        raise InputError(problem, field="lora.target_modules", remedy=remedy)
    if layer.weight.is_meta:
        return OutputHead(layer.weight)
    head = ModelHead(model)
    with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
        hidden, logits = _probe(model, layer.weight)
        for scale in (1.0, *_known_scales(model)):
            if layer.bias is None and _same(nn.functional.linear(hidden, layer.weight) * scale, logits):
                return OutputHead(layer.weight, scale)
        if _same(head.logits(hidden), logits):
            return head
    problem = f"cannot make the logits of {type(model).__name__} from its last hidden states"
    remedy = "take a decoder whose logits depend on the last hidden state alone"
    raise InputError(problem, field="model.student", remedy=remedy)


def _probe(model: PreTrainedModel, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states [n, d] and logits [n, V] of a few tokens from one forward pass, half of the states magnified.

    Within bfloat16's rounding soft-capping (or any curve of slope 1 at 0) does not change small logits, as an untrained
    model has; it changes large ones.
    """
    found: list[Tensor] = []

    def magnify(module: nn.Module, args: object, output: Any) -> Any:
        hidden = output.last_hidden_state.to(weight.dtype)  # [1, n, d]; Mamba's are in float32
        factor = _LARGE_LOGIT / nn.functional.linear(hidden, weight).abs().max().float()
        limit = torch.finfo(hidden.dtype).max / 2 / hidden.abs().max().float()
        factors = torch.ones(hidden.shape[1], 1, device=hidden.device)  # [n, 1]
        factors[hidden.shape[1] // 2 :] = torch.minimum(factor, limit).clamp(1, _LARGE_LOGIT)
        output.last_hidden_state = (hidden * factors).to(weight.dtype)
        found.append(output.last_hidden_state)
        return output

    hook = decoder_of(model).register_forward_hook(magnify)
    try:
        with evaluating(model):
            logits = model(input_ids=torch.arange(8, device=model.device)[None], use_cache=False).logits
    finally:
        hook.remove()
    return found[0][0], logits[0]


def _known_scales(model: PreTrainedModel) -> Iterator[float]:
    config = model.config.get_text_config(decoder=True)
    for name, power in (("logit_scale", 1), ("logits_scaling", -1), ("lm_head_multiplier", 1)):
        value = getattr(config, name, None)
        if isinstance(value, (int, float)) and value:  # Cohere, Granite, Falcon-H1
            yield float(value) ** power


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether logits [n, V] are equal but for rounding: of each to their dtype, and of its row's sums of products."""
    if one.shape != other.shape:
        return False
    value = other.to(wide(other.dtype))
    rounding = 4 * torch.finfo(other.dtype).eps * value.abs()
    summing = 16 * torch.finfo(value.dtype).eps * value.abs().amax(-1, keepdim=True)
    return bool(((one.to(value.dtype) - value).abs() <= rounding + summing).all())
