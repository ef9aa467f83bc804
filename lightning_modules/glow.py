"""GLOW: MLE on right and wrong rationales alike, each weighted by how much its loss fell since the epoch before."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from dust2gold.core.errors import InputError
from lightning_modules.components.accuracy import gather_objects
from lightning_modules.components.losses.gain import gain_weighted
from lightning_modules.components.losses.targets import Targets, is_padding
from lightning_modules.right_wrong import RightWrongModule

_LOSSES = "sample_losses"  # in a checkpoint


class GLOWModel(RightWrongModule):
    """L = E[w ℓ], w = α (1 − σ(β (ℓ_before − ℓ))), w = 1 in the first epoch (Tian et al. 2026, arXiv 2601.04992).

    Logs the mean of w as `weight`. Validation is unweighted.

    Args:
        alpha: α (the authors' code: 1).
        beta: β (the authors' code: 20).
        kwargs: As in `StudentModule`.
    """

    means_over_samples = frozenset({"loss", "weight"})

    def __init__(self, alpha: float = 1.0, beta: float = 20.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if alpha <= 0:
            raise InputError(f"must be positive, found {alpha}", field="model.alpha")
        self.alpha = alpha
        self.beta = beta
        self._losses: dict[str, float] = {}  # ℓ of each sample when it was last trained on, by its id
        self._noted: dict[str, float] = {}  # those of this process that the others do not know yet

    def loss_parts(self, batch: dict[str, Any], targets: Targets) -> dict[str, Tensor]:
        """GLOW's loss, the mean weight, and log P by verdict; in training notes each sample's ℓ."""
        logprobs = self.target_logprobs(batch, targets)  # [N]
        known = self._losses if self.training else {}
        before = logprobs.new_tensor([known.get(name, math.nan) for name in batch["ids"]])  # [S]
        result = gain_weighted(logprobs, before, targets, self.alpha, self.beta)
        if self.training and not is_padding(batch):
            self._noted.update(zip(batch["ids"], result.losses.tolist(), strict=True))
        weight = result.weights.sum() / targets.all.samples
        return {"loss": result.loss, "weight": weight, **self.logprob_means(logprobs, targets)}

    def on_train_epoch_end(self) -> None:
        """Tells all processes what each has noted: in the next epoch a sample may be another's."""
        for losses in gather_objects(self._noted):
            self._losses.update(losses)
        self._noted = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the samples' losses beside the weights; Lightning calls it in every process."""
        super().on_save_checkpoint(checkpoint)
        self.on_train_epoch_end()
        checkpoint[_LOSSES] = dict(self._losses)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the samples' losses back."""
        super().on_load_checkpoint(checkpoint)
        self._losses = dict(checkpoint.get(_LOSSES, {}))
