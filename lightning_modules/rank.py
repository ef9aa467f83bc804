"""Stage 3: M_rank, which scores how likely a rationale is right, for adaptive self-consistency to weigh votes with."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryCalibrationError

from dust2gold.core.errors import InputError
from lightning_modules.components.losses.ranking import RANKING_LOSSES, pairwise
from lightning_modules.components.losses.targets import is_padding
from lightning_modules.components.ranking.backbones import BackboneSettings, DecoderSettings
from lightning_modules.components.ranking.ranker import Ranker, load_ranker
from lightning_modules.trainable import BY_EPOCH, TrainableModule


class RankModel(TrainableModule):
    """A right rationale's score → 1, a wrong one's of the same question → 0 (docs/method.md, stage 3).

    Args:
        backbone: What reads the text and what of it trains: `DecoderSettings` (default: the embedded student) or
            `EncoderSettings`. With `trained` as it was in training.
        trained: Directory of a trained ranker, to validate, to predict with or to go on training.
        loss: `pairwise`, (1 − s_pos)^a + s_neg^b, or `binary_cross_entropy`.
        exponents: a and b of `pairwise` (reference: 3 and 3; it also names a second exponent, 7, and does not use it).
        head_layers: Residual layers of the head; a trained ranker brings its own.
        optimizer: Optimizer of what trains (reference: AdamW, lr 2e-5, weight decay 1e-5, the whole encoder).
        schedule: As in `StudentModule` (reference: cosine_by_epoch, which falls to 2% at the end of each epoch).
        warmup_steps: Steps of linear warm-up from 0.
    """

    verdicts = "both"
    adapters_read = ("trained", "decoder_adapter")

    def __init__(
        self,
        backbone: BackboneSettings | None = None,
        trained: str | None = None,
        loss: Literal["pairwise", "binary_cross_entropy"] = "pairwise",
        exponents: tuple[float, float] = (3, 3),
        head_layers: int = 2,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=2e-5, weight_decay=1e-5),
        schedule: str = BY_EPOCH,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, warmup_steps)
        self.backbone_settings = backbone
        self.student = getattr(backbone, "source", None)
        self.decoder_adapter = getattr(backbone, "adapter", None)  # that the decoder starts from
        self.trained = trained
        self.loss = partial(pairwise, exponents=exponents) if loss == "pairwise" else RANKING_LOSSES[loss]
        self.head_layers = head_layers
        self.ranker: Ranker | None = None
        self.pairwise_accuracy = MeanMetric()
        self.by_verdict = MetricCollection({"auroc": BinaryAUROC(), "calibration_error": BinaryCalibrationError()})

    @property
    def built(self) -> Ranker:
        """The ranker, once `configure_model` has built it."""
        if self.ranker is None:
            raise RuntimeError("configure_model() has not run yet")
        return self.ranker

    def setup(self, stage: str) -> None:
        """Refuses to validate or predict with neither `trained` nor a checkpoint."""
        untrained = self.ranker is None and self.trained is None and self.trainer.ckpt_path is None
        if untrained and stage in ("validate", "predict"):
            remedy = "give --model.trained the directory the RANK stage wrote, e.g. runs/demo/rank/adapter"
            raise InputError("no trained ranker", field="model.trained", remedy=remedy)

    def configure_model(self) -> None:
        """Loads or builds the ranker once (called by Lightning on every entry point)."""
        if self.ranker is not None:
            return
        backbone = self.backbone_settings or DecoderSettings()
        ranker = load_ranker(self.trained, backbone) if self.trained is not None else Ranker(backbone, self.head_layers)
        self.ranker = ranker.train()  # transformers loads in eval mode, and Lightning keeps the mode it finds
        self.base_name, self.base_identity = ranker.settings.source, ranker.backbone.identity
        self.shard(ranker.backbone.transformer, [ranker.head])

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Logits [rows] of a batch's rows."""
        logits: Tensor = self.built(batch["input_ids"], batch["attention_mask"], batch["rationale_mask"])
        return logits

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss, a mean over the pairs of the optimizer step, or else of the batch."""
        positive, negative = self(batch)[batch["pairs"]].unbind(1)  # [P] each
        loss = self.loss(positive, negative, _pairs_of_step(batch))
        self.log_step({"loss": loss}, {"loss": 1 if "step" in batch else len(positive)})
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """The loss and the metrics, each rationale as often as it stands in a pair.

        Returns:
            The scores [P] of right (`positive`) and wrong (`negative`) rationales, for callbacks.
        """
        rows = self(batch)  # [R]
        positive, negative = rows[batch["pairs"][:0] if is_padding(batch) else batch["pairs"]].unbind(1)  # [P] each
        pairs, logits = len(positive), torch.cat([positive, negative])  # [2P]
        # Logits, not scores: σ maps distinct large logits to the same float, and they would tie.
        self.pairwise_accuracy.update((positive > negative).float() + (positive == negative).float() / 2)
        self.by_verdict.update(logits.sigmoid(), torch.arange(2 * pairs, device=logits.device) < pairs)
        loss = self.loss(positive, negative, _pairs_of_step(batch))
        self.log_validation("loss", loss, 1 if "step" in batch else pairs)
        self.log("val/pairwise_accuracy", self.pairwise_accuracy, prog_bar=True, batch_size=pairs)
        self.log_dict({f"val/{name}": metric for name, metric in self.by_verdict.items()}, batch_size=pairs)
        return {"positive": positive.sigmoid(), "negative": negative.sigmoid()}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[float]:
        """Scores in (0, 1) of `batch["records"]`, in their order."""
        if not len(batch["input_ids"]):  # a rank may have none
            return []
        scores: list[float] = self(batch).cpu().double().sigmoid().tolist()  # in float32 σ(17) is 1 already
        return scores

    def write_adapter(self, directory: Path) -> None:
        """Writes the ranker into an empty directory; `load_ranker` reads it."""
        self.built.save(directory)


def _pairs_of_step(batch: dict[str, Any]) -> float | None:
    """The number of pairs of the optimizer step, where the batch has it: a pair has one right rationale."""
    return batch["step"]["positive"][1] if "step" in batch else None
