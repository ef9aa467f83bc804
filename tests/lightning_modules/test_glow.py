from pathlib import Path
from typing import Any

import pytest
import torch

from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.stack import LoraSettings
from lightning_modules.components.losses.targets import find_targets, sample_means
from lightning_modules.glow import GLOWModel
from tests.lightning_modules.steps import held_out_parts, loader, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore")
PLAIN = {"lora": LoraSettings(r=4, alpha=16, dropout=0.0), "schedule": "constant"}


def test_the_first_epoch_is_unweighted_and_the_second_by_the_gain(make_stage: Any, pairs: dict[str, Any]) -> None:
    module, targets = make_stage("glow", **PLAIN, alpha=2.0, beta=1.0), find_targets(pairs)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=2.0)
    losses, seen = [], []
    for _ in range(2):
        with torch.no_grad():
            seen.append(-sample_means(module.target_logprobs(pairs, targets), targets))
        parts = module.loss_parts(pairs, targets)
        losses.append(parts)
        parts["loss"].backward()
        optimizer.step()
        module.on_train_epoch_end()
    assert losses[0]["weight"] == 1
    torch.testing.assert_close(losses[0]["loss"], seen[0].mean())
    weights = 2 * torch.sigmoid(-(seen[0] - seen[1]))
    torch.testing.assert_close(losses[1]["loss"], (weights * seen[1]).mean())
    torch.testing.assert_close(losses[1]["weight"], weights.mean())
    assert not torch.equal(weights, torch.ones(4))
    assert held_out_parts(module, pairs)["weight"] == 1


def test_a_resumed_run_knows_the_losses_of_the_epoch_before(
    make_stage: Any, pairs: dict[str, Any], tmp_path: Path
) -> None:
    trained = []
    for epochs, checkpoint in ((3, None), (1, None), (3, tmp_path / "checkpoint")):
        torch.manual_seed(1)
        module = make_stage("glow", **PLAIN)
        trainer = quiet_trainer(tmp_path, max_epochs=epochs)
        trainer.fit(module, loader(pairs), ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "checkpoint")
        trained.append([p.detach() for p in module.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(trained[0], trained[2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(trained[0], trained[1], strict=True))


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(InputError) as caught:
        GLOWModel(alpha=0.0)
    assert caught.value.field == "model.alpha"
