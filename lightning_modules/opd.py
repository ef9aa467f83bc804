"""On-policy distillation: the student answers the batch's questions, and M_NAT corrects it token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.nat import POSITIVE
from lightning_modules.components.evaluation import evaluating
from lightning_modules.components.losses.reverse_divergence import reverse_divergence
from lightning_modules.components.losses.targets import (
    IGNORE,
    Targets,
    at_targets,
    find_targets,
    prompt_lengths,
    sample_means,
    sample_sums,
)
from lightning_modules.components.sampling.sampler import sample_each
from lightning_modules.fully_sharded import FullyShardedStrategy
from lightning_modules.taught import TaughtModule


class OPDModel(TaughtModule):
    """L = E_y mean_t KL( P(·|x, y_<t) ‖ P_NAT(·|x, y_<t) ), y sampled anew from the student at each step.

    Of the batch it reads the prompts alone. It samples at temperature 1, what the student is, at most
    `sampling.max_new_tokens`; no gradient is sent through the choice of tokens. Logs the mean length as `tokens`.

    Args:
        kwargs: As in `TaughtModule`; `adapter` is the student to start from; a rationale a row, no loss on the prompt.
    """

    means_over_samples = frozenset({"loss", "tokens"})

    def setup(self, stage: str) -> None:
        """Refuses to train without a teacher, or where processes would wait for each other."""
        super().setup(stage)
        if stage in ("fit", "validate") and isinstance(self.trainer.strategy, FullyShardedStrategy):
            problem = "a sharded student cannot sample: answers of different lengths would leave processes waiting"
            raise InputError(problem, field="trainer.strategy", remedy="take configs/trainer/gpu.yaml or ddp.yaml")

    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """The divergence on samples of the batch's questions, and how long these are."""
        head, own = self.adapters.head, self._answered(batch)
        answers = find_targets(own)
        with torch.no_grad(), self.adapters.using(POSITIVE):
            teacher = at_targets(self.hidden(own), answers)  # [N, d]
        divergence = reverse_divergence(head, at_targets(self.hidden(own), answers), teacher)  # [N]
        tokens = sample_sums(torch.ones_like(divergence), answers)  # [S]
        means = sample_means(divergence, answers)  # [S]
        return {"loss": means.sum() / targets.all.samples, "tokens": tokens.sum() / targets.all.samples}

    def _answered(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The batch's prompts with an answer of the student's: `input_ids, attention_mask, labels` [B, T].

        In validation an answer has the same random numbers each time.
        """
        ids, starts = batch["input_ids"], prompt_lengths(batch)  # [B, T], [B]
        place = torch.arange(int(starts.max()), device=ids.device)[None] - (starts.max() - starts)[:, None]  # [B, P]
        step = f"/{self.global_step}" if self.training else ""
        ends, settings = batch["eos_token_id"], replace(self.sampling, samples=1, temperature=1.0, top_p=1.0)
        end = [ends if isinstance(ends, int) else ends[0]]  # of several the one that ends a rationale
        with evaluating(self.adapters):
            each = sample_each(
                self.adapters.model,
                ids.gather(1, place.clamp_min(0)),
                (place >= 0).long(),
                [f"{name}{step}" for name in batch["ids"]],
                ends,
                batch["pad_token_id"],
                settings,
            )
            answers = {one.question_index: [*one.token_ids, *(end if one.finished else [])] for (one,) in each}
        parts = [(ids[row, :start].tolist(), answers[row]) for row, start in enumerate(starts.tolist())]

        def padded(rows: list[list[int]], value: int) -> Tensor:
            return pad_sequence([torch.tensor(row) for row in rows], True, value).to(ids.device)  # [B, T]

        return {
            "input_ids": padded([prompt + answer for prompt, answer in parts], batch["pad_token_id"]),
            "attention_mask": padded([[1] * len(prompt + answer) for prompt, answer in parts], 0),
            "labels": padded([[IGNORE] * len(prompt) + answer for prompt, answer in parts], IGNORE),
        }
