"""Stage 2: Negative Calibrated Enhancement, a plain LoRA distilled from NAT, weighted by how far NEG is from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.distillation.teachers import (
    CacheReader,
    CacheSettings,
    OnlineTeacher,
    Teacher,
    cached_teacher,
)
from lightning_modules.components.losses.distillation import calibration, negative_calibrated
from lightning_modules.components.losses.output_head import TeacherTargets
from lightning_modules.components.losses.targets import Targets, at_targets, sample_means
from lightning_modules.fully_sharded import FullyShardedStrategy
from lightning_modules.taught import TaughtModule


class NCEModel(TaughtModule):
    """L = (1 − a)·CE + a·(0.5 + β)·KD with β = tanh(mean KL(P_neg ‖ P_NAT)) (docs/method.md, stage 2).

    Student, teacher (M_NAT) and calibrator (M_neg) are adapters on one frozen base.

    Args:
        nat, negative: As in `TaughtModule`.
        mix: a, the weight of the distillation (reference: 0.5).
        temperature: T of the distillation (reference: 1).
        calibrated: False sets β to 0.5, weight 1: plain self-refinement (KD).
        permuted: A placebo: each sample is weighted by the β of another of its batch, drawn anew at every step.
        per_token: Weigh each token by its own β_t = tanh KL_t instead of each sample by its mean's.
        teacher: `online` runs M_NAT and M_neg at every step; `cached` runs them once per sample, in the first epoch:
            later epochs cost what a plain LoRA costs.
        cache: What `cached` keeps.
        kwargs: As in `TaughtModule`.
    """

    verdicts = "positive"
    means_over_samples = frozenset({"distillation", "beta"})

    def __init__(
        self,
        nat: str | None = None,
        mix: float = 0.5,
        temperature: float = 1.0,
        calibrated: bool = True,
        permuted: bool = False,
        per_token: bool = False,
        negative: str | None = None,
        teacher: Literal["online", "cached"] = "online",
        cache: CacheSettings = CacheSettings(),
        **kwargs: Any,
    ) -> None:
        super().__init__(nat, negative, **kwargs)
        if not 0 <= mix <= 1:
            raise InputError(f"must be between 0 and 1, found {mix}", field="model.mix")
        if temperature <= 0:
            raise InputError(f"must be positive, found {temperature}", field="model.temperature")
        for field, given in (("per_token", per_token), ("permuted", permuted)):
            if given and not calibrated:
                raise InputError("weighs by β, which calibrated: false switches off", field=f"model.{field}")
        if permuted and per_token:
            raise InputError("permutes the β of samples", field="model.permuted", remedy="leave per_token out")
        self.mix = mix
        self.temperature = temperature
        self.calibrated = calibrated
        self.permuted = permuted
        self.per_token = per_token
        self.teacher_name = teacher
        self.cache = cache
        self.last_beta: Tensor | None = None
        self.last_divergence: Tensor | None = None  # [N] KL(P_neg ‖ P_NAT) of the last batch's targets
        self._teacher: Teacher | None = None

    def setup(self, stage: str) -> None:
        """Refuses to train without a teacher, or with one that would leave processes waiting for each other."""
        super().setup(stage)
        if self.teacher_name == "cached" and isinstance(self.trainer.strategy, FullyShardedStrategy):
            raise InputError(
                "a cached teacher runs when a process meets a new sample, a sharded one in all processes at once",
                field="model.teacher",
                remedy="take --model.teacher online with FSDP2, or configs/trainer/ddp.yaml",
            )

    @property
    def teacher(self) -> Teacher:
        """M_NAT and M_neg; a cached one opens its files at the first use."""
        if self._teacher is None and self.teacher_name == "online":
            self._teacher = OnlineTeacher(self.adapters, self.temperature, self.calibrated)
        elif self._teacher is None:
            self._teacher = cached_teacher(
                self.adapters,
                self.cache,
                Path(self.trainer.default_root_dir) / "teacher",
                self.temperature,
                self.calibrated,
                self.trainer.global_rank,
                nat=Path(str(self.nat)),
                precision=str(self.trainer.precision),
                **({} if self.negative is None else {"negative": Path(self.negative)}),
            )
        return self._teacher

    def batch_reader(self) -> CacheReader | None:
        """What reads a cached teacher's targets of a batch, its field `teacher`, where the DataModule collates it."""
        return self.teacher.reader()

    def on_train_epoch_start(self) -> None:
        """Lets a cached teacher read what the other ranks have computed in the epoch before."""
        self.teacher.flush()
        self.trainer.strategy.barrier("teacher targets written")
        self.teacher.refresh()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes sure that a resumed run finds all targets computed so far; Lightning calls it on every rank."""
        super().on_save_checkpoint(checkpoint)
        if self._teacher is not None:
            self._teacher.flush()
            self.trainer.strategy.barrier("teacher targets written")

    def teardown(self, stage: str) -> None:
        """Writes what a cached teacher has not written yet."""
        super().teardown(stage)
        if self._teacher is not None:
            self._teacher.flush()

    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """The calibrated loss; logs its parts and the mean of β."""
        teacher_targets = self.teacher.targets_for(batch, targets)
        hidden = at_targets(self.hidden(batch), targets)  # [N, d]
        logprobs, soft = self.adapters.head.distillation_terms(
            hidden, targets.tokens, teacher_targets.summary, self.temperature
        )  # [N] each
        beta = self._beta(teacher_targets, targets)  # [N]
        by_sample = sample_means(beta, targets)  # [S]
        self.last_beta = beta if self.per_token else by_sample
        self.last_divergence = teacher_targets.divergence
        result = negative_calibrated(logprobs, soft * self.temperature**2, beta, targets, self.mix)
        return {**result._asdict(), "beta": by_sample.sum() / targets.all.samples}

    def _beta(self, teacher_targets: TeacherTargets, targets: Targets) -> Tensor:
        """β of each target [N]: its own, or its sample's."""
        if teacher_targets.divergence is None:
            return torch.full(targets.tokens.shape, 0.5, device=targets.tokens.device)  # [N]
        if self.per_token:
            return torch.tanh(teacher_targets.divergence)  # [N], β_t of each target's own KL
        by_sample = calibration(teacher_targets.divergence, targets)  # [S]
        if self.permuted and self.training:
            by_sample = by_sample[torch.randperm(len(by_sample)).to(by_sample.device)]
        return by_sample[targets.sample]
