"""What the method does token by token, of a few samples, for the report's page: NAT's gate and NCE's β."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from datamodules.components.encoding.tokenization import token_texts
from dust2gold.core.jsonl import write_json_lines
from lightning_modules.components.accuracy import gather_objects
from lightning_modules.components.integration.unit import IntegrationUnit
from lightning_modules.components.losses.distillation import calibration
from lightning_modules.components.losses.targets import IGNORE, find_targets

_DIGITS = 4


class GateWriter(L.Callback):
    """Writes gates.jsonl after `test`: of the first questions, the answer's tokens and each one's α_neg.

    α_neg ∈ [−0.5, 0.5] is the mean over the layers as the token is read. The answers are read once more for it, in one
    pass each, so that generation itself is not watched. Students without a gate leave no file.

    Args:
        questions: How many of the first questions.
    """

    def __init__(self, questions: int = 50) -> None:
        self.questions = questions

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finds the first questions and forgets an earlier test."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._first = [question.id for question, _ in data.questions[: self.questions]]
        self._answers: dict[str, tuple[dict[str, Any], list[int], list[int]]] = {}  # question, prompt, answer

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keeps the answers to them."""
        for sample in outputs:
            question = batch["questions"][sample.question_index]
            if question["id"] in self._first:
                real = batch["attention_mask"][sample.question_index].bool()  # [T]
                prompt = batch["input_ids"][sample.question_index][real].tolist()
                self._answers[question["id"]] = question, prompt, sample.token_ids

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Reads them on every rank, as shards of a model only work together, and writes the file on the first."""
        answers = {name: one for part in gather_objects(self._answers) for name, one in part.items()}
        units = [m for m in pl_module.modules() if isinstance(m, IntegrationUnit) and m.gate is not None]
        tokenizer = trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        rows = []
        for question, prompt, answer in [answers[name] for name in self._first if units and name in answers]:
            with trainer.precision_plugin.test_step_context():
                alpha = _mean_alpha(pl_module, units, [*prompt, *answer])[len(prompt) :]  # [tokens]
            about = {name: question[name] for name in ("question", "gold", "subject", "level")}
            record = {"schema": 1, "dataset": question["source"], "question_id": question["id"], **about}
            texts = token_texts(tokenizer, answer)
            rows.append({**record, "tokens": texts, "alpha_negative": _rounded(alpha)})
        if rows and trainer.is_global_zero:
            write_json_lines(Path(trainer.default_root_dir) / "gates.jsonl", rows)


def _mean_alpha(module: Any, units: list[IntegrationUnit], ids: list[int]) -> Tensor:
    """α_neg at each token, the mean over the units: [T]."""
    layers: dict[nn.Module, Tensor] = {}  # of the last pass: the student's first use has passes of its own before

    def keep(unit: nn.Module, inputs: Any, mixed: Any) -> None:
        layers[unit] = mixed.alpha_negative[0]  # [T]

    hooks = [unit.register_forward_hook(keep) for unit in units]
    row = torch.tensor([ids], device=module.device)  # [1, T]
    module.hidden({"input_ids": row, "attention_mask": torch.ones_like(row)})
    for hook in hooks:
        hook.remove()
    return torch.stack(list(layers.values())).float().mean(0)  # [T], of [layers, T]


class BetaWriter(L.Callback):
    """Writes betas.jsonl in the first epoch of NCE: of the first samples trained on, β and each token's own.

    β = tanh of the mean over the tokens of KL(P_neg ‖ P_NAT), that of a token tanh of its KL. The teachers are frozen,
    so they stay what they are. It costs no pass of its own. NCE without β leaves no file.

    Args:
        samples: How many of the samples that the first process trains on.
    """

    def __init__(self, samples: int = 50) -> None:
        self.samples = samples

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins, unless this training goes on from one that has written the file."""
        self._path = Path(trainer.default_root_dir) / "betas.jsonl"
        self._rows: dict[str, dict[str, Any]] = {}
        resumed = trainer.global_step > 0 and self._path.is_file()
        self._done = resumed or not trainer.is_global_zero

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the batch's samples until there are enough."""
        divergence = getattr(pl_module, "last_divergence", None)
        if self._done or divergence is None:
            return
        tokenizer = trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        targets = find_targets(batch)
        betas = calibration(divergence, targets).tolist()  # [S]
        rows = targets.positions // batch["labels"].shape[1]  # [N]
        for number in targets.sample.unique().tolist():
            own = targets.sample == number  # [N]
            row = int(rows[own][0])
            real = batch["segments"][row] == number if "segments" in batch else batch["attention_mask"][row].bool()
            prompt = batch["input_ids"][row][real & (batch["labels"][row] == IGNORE)]
            asked = str(tokenizer.decode(prompt.tolist(), skip_special_tokens=True))
            values = {"beta": round(betas[number], _DIGITS), "token_betas": _rounded(divergence[own].tanh())}
            record = {"schema": 1, "id": batch["ids"][number], "prompt": asked}
            texts = token_texts(tokenizer, targets.tokens[own].tolist())
            self._rows[record["id"]] = {**record, "tokens": texts, **values}
        if len(self._rows) >= self.samples:
            self._write()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes what there is, if the epoch had fewer."""
        if not self._done and self._rows:
            self._write()

    def _write(self) -> None:
        write_json_lines(self._path, list(self._rows.values())[: self.samples])
        self._done = True


def _rounded(values: Tensor) -> list[float]:
    return [round(value, _DIGITS) for value in values.tolist()]
