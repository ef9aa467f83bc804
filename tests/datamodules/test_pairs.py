"""Pairs for M_rank: which rationales meet, what a batch holds, and that a resumed epoch goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.components.encoding.tokenization import load_tokenizer
from datamodules.components.records.records import Rationale, Verdict, write_rationales
from datamodules.pairs import PairDataModule
from dust2gold.core.errors import InputError


def rationale(question: int, k: int, verdict: Verdict, text: str | None = None) -> Rationale:
    asked, own = f"What is {question} plus {k}?", text or f"{question} and {k} make " + "a lot " * k
    return Rationale(f"q{question}/{k}", f"q{question}", asked, "1", own, "1", verdict, "", "", "test", "teacher")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """12 questions with 2 right and 3 wrong rationales; q12 has only right ones, q13 only ungradable and wrong ones."""
    right = [rationale(q, k, "positive") for q in range(12) for k in range(2)]
    wrong = [rationale(q, k, "negative") for q in range(12) for k in range(2, 5)]
    right += [rationale(12, 0, "positive")]
    wrong += [rationale(13, 0, "ungradable"), rationale(13, 1, "negative")]
    write_rationales(tmp_path / "positive.jsonl", right)
    write_rationales(tmp_path / "negative.jsonl", wrong)
    return [str(tmp_path / "positive.jsonl"), str(tmp_path / "negative.jsonl")]


@pytest.fixture
def make(tiny_student: Path, files: list[str]) -> Callable[..., PairDataModule]:
    """Makes a set-up DataModule."""

    def build(stage: str = "fit", **kwargs: Any) -> PairDataModule:
        data = PairDataModule(**{"tokenizer": str(tiny_student), "train": files, "batch_size": 5, **kwargs})
        data.setup(stage)
        return data

    return build


def test_batch_reads_each_rationale_once_and_pairs_right_with_wrong_ones_of_its_question(
    make: Callable[..., PairDataModule], tiny_student: Path
) -> None:
    data, tokenizer = make(validation_fraction=0.0), load_tokenizer(str(tiny_student))
    right_texts = {rationale(q, k, "positive").rationale for q in range(12) for k in range(2)}
    seen = []
    for batch in data.train_dataloader():
        assert set(batch) == {"input_ids", "attention_mask", "rationale_mask", "pairs", "question_ids", "step"}
        assert batch["input_ids"].dtype == batch["pairs"].dtype == torch.int64
        assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["rationale_mask"].shape
        texts = []
        fields = batch["input_ids"], batch["attention_mask"], batch["rationale_mask"]
        for ids, real, mark in zip(*fields, strict=True):
            length = int(real.sum())
            assert real.tolist() == [1] * length + [0] * (len(ids) - length)
            prompt, text = ids[(real == 1) & (mark == 0)].tolist(), ids[mark == 1].tolist()
            assert ids[:length].tolist() == prompt + text  # the marked tokens are the last ones
            assert text[-1] == tokenizer.eos_token_id
            assert str(tokenizer.decode(prompt)).endswith("\nSolution:\n")
            texts.append((str(tokenizer.decode(prompt)), str(tokenizer.decode(text[:-1]))))
        assert len(texts) == len(set(texts))
        assert set(batch["pairs"].flatten().tolist()) == set(range(len(texts)))
        for right, wrong in batch["pairs"].tolist():
            assert texts[right][0].split(" plus")[0] == texts[wrong][0].split(" plus")[0]
            assert texts[right][1] in right_texts
            assert texts[wrong][1] not in right_texts
            seen.append((texts[right], texts[wrong]))
        assert len(batch["question_ids"]) == len(batch["pairs"])
    assert len(seen) == len(set(seen)) == 12 * 4


def test_batch_size_counts_pairs(make: Callable[..., PairDataModule]) -> None:
    sizes = [len(batch["pairs"]) for batch in make(validation_fraction=0.0, batch_size=10).train_dataloader()]
    assert sizes == [8] * 6  # of 12 questions with 4 pairs each, two a batch
    assert len(next(iter(make(validation_fraction=0.0, batch_size=2).train_dataloader()))["pairs"]) == 4
    with pytest.raises(InputError, match=r"data\.batch_size"):
        make(validation_fraction=0.0, batch_size=0).train_dataloader()


def test_validation_questions_never_train(make: Callable[..., PairDataModule]) -> None:
    data = make(validation_fraction=0.4)
    trained, held = set(data.train_pairs.questions), set(data.validation_pairs.questions)
    assert trained
    assert held
    assert not trained & held
    assert trained | held == {f"q{n}" for n in range(12)}
    first, second = [[b["input_ids"].tolist() for b in data.val_dataloader()] for _ in range(2)]
    assert first == second


def test_validation_files_and_no_validation(make: Callable[..., PairDataModule], files: list[str]) -> None:
    data = make(validation=files)
    assert data.train_pairs.questions.keys() == data.validation_pairs.questions.keys()
    assert make(validation_fraction=0.0).val_dataloader() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": None}, "data.train.*nothing to train on"),
        ({"train": "positive"}, "data.train.*no question has both"),
        ({"validation": "positive"}, "data.validation.*no question has both"),
        ({"validation_fraction": 1.0}, "lower --data.validation_fraction"),
        ({"stage": "predict"}, "data.predict.*nothing to score"),
    ],
)
def test_what_cannot_be_used(
    make: Callable[..., PairDataModule], files: list[str], arguments: dict[str, Any], message: str
) -> None:
    arguments = {name: files[0] if value == "positive" else value for name, value in arguments.items()}
    with pytest.raises(InputError, match=f"(?s){message}"):
        make(**arguments)


def test_scoring_batches_hold_each_record_once(make: Callable[..., PairDataModule], files: list[str]) -> None:
    data = make("predict", predict=files[1], score_batch_size=8)
    batches = list(data.predict_dataloader())
    assert [len(batch["records"]) for batch in batches] == [8, 8, 8, 8, 6]
    ids = [record["id"] for batch in batches for record in batch["records"]]
    assert sorted(ids) == sorted(record.id for record in data.records)
    assert len(ids) == 38
    lengths = [int(n) for batch in batches for n in batch["attention_mask"].sum(1)]
    assert lengths == sorted(lengths, reverse=True)
    write_rationales(Path(files[0]), [rationale(0, 0, "positive")] * 2)
    with pytest.raises(InputError, match="'q0/0' comes twice"):
        make("predict", predict=files[0])
