r"""M_rank (docs/method.md, stage 3): how likely a rationale is right, read off hidden states pooled over the rationale.

    s(x, r, ŷ) = σ( head( mean over the rationale's tokens of hidden_t ) )  ∈ (0, 1)

A trained ranker is a directory, read in one call, `load_ranker(directory, settings)`:

    rank/head.safetensors  rank/dust2gold.json  rank/adapter/ (decoder: stock PEFT)  rank/encoder/ (encoder, if trained)
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dust2gold.core.errors import InputError, reason
from dust2gold.core.students import public_name
from lightning_modules.components.adapters.base_identity import base_of
from lightning_modules.components.adapters.manifest import (
    ADAPTER_MANIFEST,
    check_weights,
    damaged_manifest,
    read_manifest,
    write_manifest,
)
from lightning_modules.components.adapters.stack import shapes_only
from lightning_modules.components.ranking.backbones import BackboneSettings

HEAD_FILE = "head.safetensors"


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of `hidden` [B, T, d] over the positions where `mask` [B, T] is 1: [B, d], in float32 or wider.

    A row without such a position gives 0.
    """
    hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
    weights = mask.to(hidden.dtype)  # [B, T]
    with torch.autocast(hidden.device.type, enabled=False):  # which would take the sum in half precision
        return torch.einsum("btd,bt->bd", hidden, weights) / weights.sum(1, keepdim=True).clamp_min(1)


class ScoreHead(nn.Module):
    """A residual ELU MLP to one logit: h ← h + ELU(W_i h + b_i), then w·h + b."""

    def __init__(self, hidden_size: int, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(layers))
        self.out = nn.Linear(hidden_size, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits [B] of pooled hidden states [B, d]."""
        for layer in self.layers:
            pooled = pooled + F.elu(layer(pooled))  # [B, d]
        return self.out(pooled).squeeze(-1)  # type: ignore[no-any-return]  # [B]


class Ranker(nn.Module):
    """A backbone, the pooling and the head.

    Args:
        settings: Of the backbone; they go into the manifest.
        head_layers: Residual layers of the head.
        trained: Directory of a trained ranker to take the backbone's trained part from.
    """

    def __init__(self, settings: BackboneSettings, head_layers: int = 2, trained: Path | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = settings.build(trained)
        self.head = ScoreHead(self.backbone.hidden_size, head_layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, rationale_mask: Tensor) -> Tensor:
        """Logits [B] in float32, σ of which are the scores, of right-padded ids and masks [B, T]."""
        hidden = self.backbone(input_ids, attention_mask)  # [B, T, d]
        pooled = masked_mean(hidden, rationale_mask)  # [B, d]
        with torch.autocast(pooled.device.type, enabled=False):  # bf16 logits would tie
            return self.head(pooled)  # type: ignore[no-any-return]

    def save(self, directory: Path) -> None:
        """Writes the ranker into an empty directory."""
        self.backbone.save(directory)
        if not shapes_only():
            state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
            save_file(state, directory / HEAD_FILE)
        facts = {
            "kind": "ranker",
            "base": None if self.backbone.identity is None else self.backbone.identity.to_json(),
            "head_layers": len(self.head.layers),
            "backbone": {"kind": self.settings.kind, "source": public_name(self.settings.source)},
        }
        write_manifest(directory, facts)


def load_ranker(directory: str | Path, settings: BackboneSettings) -> Ranker:
    """Loads what `Ranker.save` wrote, in evaluation mode; `settings` say where its base is.

    Raises:
        InputError: If the directory is no ranker, is damaged, or belongs to another base.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if manifest.get("kind") != "ranker":
        remedy = "give the directory the RANK stage wrote, e.g. runs/demo/rank/adapter"
        problem = f"no ranker here ({ADAPTER_MANIFEST} is missing or of another stage)"
        raise InputError(problem, file=directory, remedy=remedy)
    try:
        kind, layers = manifest["backbone"]["kind"], int(manifest["head_layers"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged_manifest(directory, error) from error
    check_weights(directory, manifest)
    ranker = Ranker(settings, layers, trained=directory)
    here, trained_on = ranker.backbone.identity, base_of(directory, manifest)
    if settings.kind != kind or (here is not None and trained_on is not None and not here.is_same(trained_on)):
        raise InputError(
            f"the ranker was trained on another base ({kind}) than '{settings.source}' ({settings.kind})",
            file=directory,
            remedy="name the base it was trained on, or train RANK again",
        )
    file = directory / HEAD_FILE
    try:
        if file.is_file() or not shapes_only():
            ranker.head.load_state_dict(load_file(file))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"damaged or missing head ({reason(error)})", file=file, remedy="train RANK again") from error
    return ranker.eval()
