"""The scores of M_rank on their way to the votes (scored.jsonl) and to TensorBoard."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.scores import ScoreMonitor, ScoreWriter
from datamodules.components.records.records import read_rationales, write_rationales
from datamodules.pairs import PairDataModule
from dust2gold.core.errors import InputError
from lightning_modules.components.ranking.backbones import DecoderSettings
from lightning_modules.rank import RankModel
from tests.records import rationale


@pytest.fixture
def samples(tmp_path: Path) -> str:
    """21 samples of 7 questions, of all three verdicts, lengths out of order."""
    records = [rationale(q, k, logprob=-1.5, tokens=4, seed=k) for q in range(7) for k in range(3)]
    records[2::3] = [replace(record, verdict="ungradable", answer=None) for record in records[2::3]]
    write_rationales(tmp_path / "samples.jsonl", records)
    return str(tmp_path / "samples.jsonl")


@pytest.fixture
def model(tiny_student: Path) -> RankModel:
    torch.manual_seed(0)
    ranker = RankModel(DecoderSettings(str(tiny_student), lora=None))
    ranker.configure_model()
    return ranker.eval()


@pytest.fixture
def data(tiny_student: Path) -> Any:
    return lambda **kwargs: PairDataModule(str(tiny_student), **{"score_batch_size": 4, "batch_size": 3, **kwargs})


def test_records_and_order_stay(model: RankModel, make_trainer: Any, samples: str, data: Any, tmp_path: Path) -> None:
    make_trainer(ScoreWriter()).predict(model, data(predict=samples), return_predictions=False)
    before, after = list(read_rationales(Path(samples))), list(read_rationales(tmp_path / "run" / "scored.jsonl"))
    assert [replace(record, score=None) for record in after] == before
    assert len({record.score for record in after}) > 5
    single = data(predict=samples, score_batch_size=1)
    single.setup("predict")
    with torch.no_grad():
        alone = {b["records"][0]["id"]: model.predict_step(b, 0)[0] for b in single.predict_dataloader()}
    assert {record.id: record.score for record in after} == pytest.approx(alone, abs=1e-6)


def test_no_limit_drops_a_record(model: RankModel, make_trainer: Any, samples: str, data: Any, tmp_path: Path) -> None:
    limited, output = data(predict=samples, max_length=40, drop_longer=True), tmp_path / "elsewhere" / "scores.jsonl"
    make_trainer(ScoreWriter(str(output))).predict(model, limited, return_predictions=False)
    scores = [record.score for record in read_rationales(output)]
    assert len(scores) == 21
    assert None not in scores


def test_what_is_too_long_to_score_gets_its_questions_mean(
    model: RankModel, make_trainer: Any, data: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"rationale": "so " * 300}  # the student's context is 256
    records = [
        rationale(q, k, **(long if (q, k) in ((0, 1), (1, 0), (1, 1)) else {})) for q in range(3) for k in range(3)
    ]
    write_rationales(tmp_path / "samples.jsonl", records)

    def scored(**options: Any) -> dict[str, Any]:
        pairs = data(predict=str(tmp_path / "samples.jsonl"), **options)
        make_trainer(ScoreWriter()).predict(model, pairs, return_predictions=False)
        after = list(read_rationales(tmp_path / "run" / "scored.jsonl"))
        assert [replace(record, score=None) for record in after] == records
        return {record.id: record.score for record in after}

    scores = scored()
    said = capsys.readouterr()
    assert "3 of 9 rationales have more than 256 tokens: each gets the mean of its question's scores" in said.err
    assert "9 samples, 6 scored" in said.out
    assert scores["q0/1"] == pytest.approx((scores["q0/0"] + scores["q0/2"]) / 2)
    assert scores["q1/0"] == scores["q1/1"] == scores["q1/2"]
    write_rationales(tmp_path / "samples.jsonl", records := [rationale(0, 0), rationale(1, 0, **long)])
    assert scored(max_scored_length=200)["q1/0"] == 0.5  # none of its question's could be scored
    with pytest.raises(InputError, match="every rationale has more than 3 tokens"):
        scored(max_scored_length=3)


def test_written_whole_or_not(model: RankModel, make_trainer: Any, samples: str, data: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writer = ScoreWriter(str(tmp_path / "file" / "scored.jsonl"))
    with pytest.raises(InputError, match=r"cannot write.*\n.*choose another output"):
        make_trainer(writer).predict(model, data(predict=samples), return_predictions=False)
    assert not list(tmp_path.rglob("*.part"))


def test_an_untrained_ranker_does_not_score(make_trainer: Any, samples: str, data: Any, tiny_student: Path) -> None:
    with pytest.raises(InputError, match=r"model\.trained.*no trained ranker"):
        make_trainer().predict(RankModel(DecoderSettings(str(tiny_student))), data(predict=samples))


def test_monitor_logs_by_verdict(
    model: RankModel, make_trainer: Any, samples: str, data: Any, events: Any, tmp_path: Path
) -> None:
    write_rationales(tmp_path / "train.jsonl", [rationale(8, k) for k in range(2)])
    pairs = data(train=str(tmp_path / "train.jsonl"), validation=samples)
    make_trainer(ScoreMonitor()).validate(model, pairs, verbose=False)
    with torch.no_grad():
        logits = [model.eval()(batch)[batch["pairs"]].unbind(1) for batch in pairs.val_dataloader()]
    logged = events()
    for verdict, side in zip(("positive", "negative"), zip(*logits, strict=True), strict=True):
        scores = torch.cat(side).sigmoid()
        assert logged.Scalars(f"val/score_{verdict}")[0].value == pytest.approx(scores.mean().item(), abs=1e-6)
        histogram = logged.Histograms(f"val/scores/{verdict}")[0].histogram_value
        assert (histogram.num, histogram.min) == (7, pytest.approx(scores.min().item(), abs=1e-6))
