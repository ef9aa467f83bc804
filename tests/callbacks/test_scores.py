"""The scores of M_rank on their way to the votes (scored.jsonl) and to TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from callbacks.scores import ScoreMonitor, ScoreWriter
from datamodules.components.records.records import Rationale, Verdict, read_rationales, write_rationales
from datamodules.pairs import PairDataModule
from dust2gold.core.errors import InputError
from lightning_modules.components.ranking.backbones import DecoderSettings
from lightning_modules.rank import RankModel


def rationale(question: int, k: int, verdict: Verdict) -> Rationale:
    return Rationale(
        id=f"q{question}/{k}",
        question_id=f"q{question}",
        question="What is it?",
        gold="1",
        rationale=f"{question} " * (1 + (7 * question + 5 * k) % 11),
        answer=None,
        verdict=verdict,
        subject="",
        level="",
        source="test",
        writer="nat",
        logprob=-1.5,
        tokens=4,
        seed=k,
    )


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """21 samples of 7 questions, of all three verdicts, lengths out of order."""
    verdicts: tuple[Verdict, ...] = ("positive", "negative", "ungradable")
    write_rationales(tmp_path / "samples.jsonl", [rationale(q, k, verdicts[k]) for q in range(7) for k in range(3)])
    return tmp_path / "samples.jsonl"


@pytest.fixture
def model(tiny_student: Path) -> RankModel:
    torch.manual_seed(0)
    ranker = RankModel(DecoderSettings(str(tiny_student), lora=None))
    ranker.configure_model()
    return ranker


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., L.Trainer]:
    def make(**kwargs: Any) -> L.Trainer:
        return L.Trainer(
            **{
                "accelerator": "cpu",
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "default_root_dir": tmp_path / "run",
                "use_distributed_sampler": False,
                **kwargs,
            }
        )

    return make


def data(student: Path, **kwargs: Any) -> PairDataModule:
    return PairDataModule(str(student), score_batch_size=4, batch_size=3, **kwargs)


def test_scored_file_keeps_records_and_order(
    model: RankModel, run: Callable[..., L.Trainer], samples: Path, tiny_student: Path, tmp_path: Path
) -> None:
    run(callbacks=[ScoreWriter()]).predict(model, data(tiny_student, predict=str(samples)), return_predictions=False)
    before, after = list(read_rationales(samples)), list(read_rationales(tmp_path / "run" / "scored.jsonl"))
    assert [replace(record, score=None) for record in after] == before
    assert len({record.score for record in after}) > 5
    single = data(tiny_student, predict=str(samples))
    single.score_batch_size = 1
    single.setup("predict")
    model.eval()
    with torch.no_grad():
        alone = {b["records"][0]["id"]: model.predict_step(b, 0)[0] for b in single.predict_dataloader()}
    assert {record.id: record.score for record in after} == pytest.approx(alone, abs=1e-6)


def test_every_record_is_scored_whatever_limit_training_had(
    model: RankModel, run: Callable[..., L.Trainer], samples: Path, tiny_student: Path, tmp_path: Path
) -> None:
    limited = data(tiny_student, predict=str(samples), max_length=40, drop_longer=True)
    output = tmp_path / "elsewhere" / "scores.jsonl"
    run(callbacks=[ScoreWriter(str(output))]).predict(model, limited, return_predictions=False)
    scores = [record.score for record in read_rationales(output)]
    assert len(scores) == 21
    assert all(score is not None for score in scores)


def test_scores_are_written_whole_or_not_at_all(
    model: RankModel, run: Callable[..., L.Trainer], samples: Path, tiny_student: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot write.*\n.*choose another output"):
        run(callbacks=[ScoreWriter(str(blocked / "scored.jsonl"))]).predict(
            model, data(tiny_student, predict=str(samples)), return_predictions=False
        )
    assert not list(tmp_path.rglob("*.part"))


def test_a_ranker_that_nobody_trained_does_not_score(
    run: Callable[..., L.Trainer], samples: Path, tiny_student: Path
) -> None:
    with pytest.raises(InputError, match=r"model\.trained.*no trained ranker"):
        run().predict(RankModel(DecoderSettings(str(tiny_student))), data(tiny_student, predict=str(samples)))


def test_monitor_logs_means_and_histograms_by_verdict(
    model: RankModel, run: Callable[..., L.Trainer], samples: Path, tiny_student: Path, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path / "logs", name=None, version="")
    trainer = run(callbacks=[ScoreMonitor()], logger=logger)
    pairs = data(tiny_student, train=str(samples), validation=str(samples))
    trainer.validate(model, pairs, verbose=False)
    model.eval()
    with torch.no_grad():
        logits = [model(batch)[batch["pairs"]].unbind(1) for batch in pairs.val_dataloader()]
    expected = [torch.cat(side).sigmoid() for side in zip(*logits, strict=True)]
    assert len(expected[0]) == 7
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    for verdict, scores in zip(("positive", "negative"), expected, strict=True):
        assert events.Scalars(f"val/score_{verdict}")[0].value == pytest.approx(scores.mean().item(), abs=1e-6)
        histogram = events.Histograms(f"val/scores/{verdict}")[0].histogram_value
        assert (histogram.num, histogram.min) == (7, pytest.approx(scores.min().item(), abs=1e-6))
