"""Stage 3's inference, Adaptive Self-Consistency beside its baselines: votes over the samples of each question."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
import torch

from lightning_modules.components.accuracy import GroupedAccuracy
from lightning_modules.components.voting.votes import (
    NEEDS,
    PLACEBO,
    permute_scores,
    vote_accuracy,
    vote_weights,
    winning_classes,
)


class VotingModel(L.LightningModule):
    """Votes with every weighting that the samples allow: `sc` always, `ws` with log-probabilities, `asc` with scores.

    ASC comes in the paper's form, `asc`, and in the reference's two others, `asc-1+s` and `asc-1+2s`. The model has no
    parameters; only `test` applies. With `placebo` there is also `asc-permuted`, M_rank's scores exchanged among a
    question's samples. It logs `test/<method>/accuracy` and its groups, and its step returns the rows of
    predictions.jsonl.
    """

    def __init__(self, placebo: bool = False) -> None:
        super().__init__()
        self.placebo = placebo
        methods = [*NEEDS, PLACEBO] if placebo else NEEDS
        self.accuracies: Any = torch.nn.ModuleDict({method: GroupedAccuracy() for method in methods})

    def test_step(  # type: ignore[override]  # Lightning hands any value on to the callbacks
        self, batch: dict[str, Any], batch_idx: int
    ) -> list[dict[str, Any]]:
        """Counts the votes of a batch and returns one row per method and question."""
        by_method = vote_weights(batch["answers"], batch.get("logprob_mean"), batch.get("score"))  # [Q, N] each
        if self.placebo and "asc" in by_method:
            by_method[PLACEBO] = permute_scores(batch["score"], batch["samples"])  # [Q, N]
        if batch_idx == 0 and self.trainer.is_global_zero:
            _report_skipped([method for method in NEEDS if method not in by_method])
        rows: list[dict[str, Any]] = []
        for method, weights in by_method.items():
            correct = vote_accuracy(batch["answers"], weights, batch["gold"])  # [Q]
            groups = [{"subject": question["subject"], "level": question["level"]} for question in batch["questions"]]
            self.accuracies[method].update(correct, groups)
            winners = winning_classes(batch["answers"], weights)  # [Q, C]
            rows += _rows(method, batch, winners.tolist(), correct.tolist())
        return rows

    def on_test_epoch_end(self) -> None:
        """Logs the accuracies over all ranks; the values are the same on each."""
        for method, accuracy in self.accuracies.items():
            accuracy.update([], [])  # else torchmetrics warns where no batch allowed the method
            values = accuracy.compute()
            if values["count"] > 0:
                accuracies = {name: value.float() for name, value in values.items() if name.startswith("accuracy")}
                self.log_dict({f"test/{method}/{name}": value for name, value in accuracies.items()})
            accuracy.reset()


def _rows(method: str, batch: dict[str, Any], winners: list[list[bool]], correct: list[float]) -> list[dict[str, Any]]:
    """Rows of predictions.jsonl; tied answers stand beside each other, and None stands where all abstained."""
    rows = []
    columns = (batch["questions"], batch["texts"], batch["samples"].tolist(), winners, correct)
    for question, texts, count, won, share in zip(*columns, strict=True):
        answers = [text for text, wins in zip(texts, won, strict=False) if wins]
        rows.append(
            {
                "method": method,
                "dataset": question["source"],
                "question_id": question["id"],
                "subject": question["subject"],
                "level": question["level"],
                "correct": share,
                "answer": " | ".join(answers) if answers else None,
                "gold": question["gold"],
                "samples": count,
            }
        )
    return rows


def _report_skipped(methods: list[str]) -> None:
    remedies = {
        "logprob_mean": "the samples have no log-probability: sample them with `predict`",
        "score": "the samples have no score: let M_rank score them with `predict` on configs/rank.yaml",
    }
    for field, remedy in remedies.items():
        skipped = [method for method in methods if NEEDS[method] == field]
        if skipped:
            print(f"left out: {', '.join(skipped)}; {remedy}", file=sys.stderr)
