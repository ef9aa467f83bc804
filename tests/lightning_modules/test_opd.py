from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dust2gold.core.errors import InputError
from lightning_modules.base import STUDENT
from lightning_modules.components.adapters.nat import POSITIVE
from lightning_modules.components.losses.targets import IGNORE, find_targets
from lightning_modules.opd import OPDModel
from tests.lightning_modules.steps import held_out_parts, loader, quiet_trainer, train

pytestmark = pytest.mark.filterwarnings("ignore")


def test_its_answers_follow_the_prompts_and_are_drawn_anew(
    make_stage: Any, pairs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_stage("opd")
    first = module._answered(pairs)
    assert torch.equal(first["input_ids"][:, :3], pairs["input_ids"][:, :3])
    counts = first["attention_mask"].sum(1)
    for row, count in enumerate(counts.tolist()):
        labels = first["labels"][row]
        assert torch.equal(labels[3:count], first["input_ids"][row, 3:count])
        assert (torch.cat([labels[:3], labels[count:]]) == IGNORE).all()
        assert count - 3 <= module.sampling.max_new_tokens
    assert torch.equal(module._answered(pairs)["input_ids"], first["input_ids"])
    monkeypatch.setattr(type(module), "global_step", 1)
    assert module._answered(pairs)["input_ids"].tolist() != first["input_ids"].tolist()
    module.eval()
    held_out = module._answered(pairs)
    monkeypatch.setattr(type(module), "global_step", 2)
    assert torch.equal(module._answered(pairs)["input_ids"], held_out["input_ids"])


@pytest.mark.parametrize("ends", [int, lambda token: [token, 2]])
def test_an_ended_answer_ends_in_eos(make_stage: Any, pairs: dict[str, Any], ends: Callable[[int], object]) -> None:
    module = make_stage("opd")
    asked = module._answered(pairs)["input_ids"]
    token = int(asked[0, 5])
    own = module._answered({**pairs, "eos_token_id": ends(token)})
    assert find_targets(own).tokens[:3].tolist() == asked[0, 3:6].tolist()
    assert int(own["attention_mask"][0].sum()) == 6


def test_the_loss_is_the_dense_divergence(make_stage: Any, pairs: dict[str, Any], logits_of: Any) -> None:
    module = make_stage("opd").double().eval()
    own = module._answered(pairs)
    student = logits_of(module.adapters, own).log_softmax(-1)
    with module.adapters.using(POSITIVE):
        teacher = logits_of(module.adapters, own).log_softmax(-1)
    divergence = (student.exp() * (student - teacher)).sum(-1)[:, :-1]  # [B, T - 1]
    means = [row[where].mean() for row, where in zip(divergence, own["labels"][:, 1:] != IGNORE, strict=True)]
    parts = held_out_parts(module, pairs)
    torch.testing.assert_close(parts["loss"], torch.stack(means).mean(), rtol=1e-10, atol=1e-12)
    assert parts["tokens"] == (own["labels"] != IGNORE).sum() / 4


def test_the_loss_falls_and_the_student_alone_moves(make_stage: Any, pairs: dict[str, Any]) -> None:
    module = make_stage("opd")
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    first = held_out_parts(module, pairs)
    train(module, pairs, 25)
    assert held_out_parts(module, pairs)["loss"] < 0.8 * first["loss"]
    moved = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if f".{STUDENT}." in n}


def test_it_fits_and_validates(make_stage: Any, pairs: dict[str, Any], tmp_path: Path) -> None:
    module = make_stage("opd")
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, loader(pairs, pairs), loader(pairs))
    assert {"train/loss", "train/tokens", "val/loss", "val/tokens"} <= trainer.callback_metrics.keys()
    trainer.validate(module, loader(pairs), verbose=False)


def test_what_it_cannot_train_is_refused(tiny_student: Path, make_stage: Any, pairs: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a teacher is needed"):
        OPDModel(student=str(tiny_student)).setup("fit")
    with pytest.raises(InputError, match="apart from its prompt") as caught:
        make_stage("opd").loss_parts({**pairs, "labels": pairs["input_ids"]}, find_targets(pairs))
    assert caught.value.field == "data.loss_on_prompt"
