"""Stage 2: Negative Calibrated Enhancement, a plain LoRA taught by NAT and weighted by what NEG lacks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import InputError
from lightning_modules.base import StudentModule
from lightning_modules.components.assistant import NEGATIVE, POSITIVE, load_nat
from lightning_modules.components.head import Lesson
from lightning_modules.components.losses import Targets, at_targets, calibration, negative_calibrated
from lightning_modules.components.student import AdapterStack


class NCEModel(StudentModule):
    """L = (1 − a)·CE + a·(0.5 + β)·KD with β = tanh(mean KL(P_neg ‖ P_NAT)) (PAPER.md, stage 2).

    Student, teacher (M_NAT) and calibrator (M_neg) are adapters on one frozen base. Teachers see no dropout.

    Args:
        nat: The trained NAT directory, which holds M_neg too. Needed to train, not to sample.
        mix: a, the weight of the distillation (reference: 0.5).
        temperature: T of the distillation (reference: 1).
        calibrated: False sets β to 0.5, weight 1: plain self-refinement (KD).
        kwargs: As in `StudentModule`.
    """

    means_over_samples = frozenset({"distillation", "beta"})

    def __init__(
        self,
        nat: str | None = None,
        mix: float = 0.5,
        temperature: float = 1.0,
        calibrated: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= mix <= 1:
            raise InputError(f"must be between 0 and 1, found {mix}", field="model.mix")
        if temperature <= 0:
            raise InputError(f"must be positive, found {temperature}", field="model.temperature")
        self.nat = nat
        self.mix = mix
        self.temperature = temperature
        self.calibrated = calibrated
        self.units = nn.ModuleDict()
        self.last_beta: Tensor | None = None

    def build(self, stack: AdapterStack) -> None:
        """NAT frozen, then the student's own LoRA on the same base."""
        if self.nat is not None:
            self.units = load_nat(stack, self.nat)
        self.add_or_load(stack)

    def setup(self, stage: str) -> None:
        """Refuses to train without a teacher.

        Raises:
            InputError: If `nat` is missing.
        """
        if stage in ("fit", "validate") and self.nat is None:
            raise InputError(
                "NCE needs a teacher",
                field="model.nat",
                remedy="give --model.nat the adapter directory of the NAT stage",
            )

    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """The calibrated loss; logs its parts and the mean of β."""
        lesson = self._lesson(batch, targets)
        hidden = at_targets(self.hidden(batch), targets)
        logprobs, soft = self.adapters.head.learn(hidden, targets.tokens, lesson.summary, self.temperature)
        if lesson.divergence is None:
            self.last_beta = logprobs.new_full((targets.samples,), 0.5)
        else:
            self.last_beta = calibration(lesson.divergence, targets)
        result = negative_calibrated(
            logprobs, soft * self.temperature**2, self.last_beta[targets.sample], targets, self.mix
        )
        return {**result._asdict(), "beta": self.last_beta.mean()}

    @torch.no_grad()
    def _lesson(self, batch: dict[str, Any], targets: Targets) -> Lesson:
        negative = self._teacher(NEGATIVE, batch, targets) if self.calibrated else None
        return self.adapters.head.teach(self._teacher(POSITIVE, batch, targets), negative, self.temperature)

    def _teacher(self, adapter: str, batch: dict[str, Any], targets: Targets) -> Tensor:
        with self.adapters.using(adapter):
            return at_targets(self.hidden(batch), targets)
