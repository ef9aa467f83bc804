"""The DataModule of the decoder stages: the batch contract of docs/formats.md, splits, and what it refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator
from torch.utils.data._utils.pin_memory import pin_memory
from transformers import AutoTokenizer

from datamodules.components.batching.collate import IGNORE
from datamodules.components.encoding.prompts import prompt
from datamodules.components.encoding.tokenization import encode
from datamodules.components.records.records import Rationale, write_questions, write_rationales
from datamodules.rationales import RationaleDataModule
from dust2gold.core.errors import InputError
from tests.records import question, rationale, write_asked, write_positive


@pytest.fixture
def student(tiny_student: Path) -> str:
    return str(tiny_student)


def fitted(student: str, train: str | list[str], **kwargs: Any) -> RationaleDataModule:
    data = RationaleDataModule(student, train, **{"validation_fraction": 0.0, "batch_size": 4, **kwargs})
    data.setup("fit")
    return data


def refused(student: str, train: str | list[str] | None, stage: str = "fit", **kwargs: Any) -> InputError:
    data = RationaleDataModule(student, train, **kwargs)
    with pytest.raises(InputError) as caught:
        data.setup(stage)
    return caught.value


# Training batches.


def test_training_batch_contract(student: str, tmp_path: Path) -> None:
    records = {r.id: r for r in (rationale(q, k) for q in range(6) for k in range(3))}
    write_rationales(tmp_path / "all.jsonl", records.values())
    data = fitted(student, str(tmp_path / "all.jsonl"))
    seen: list[str] = []
    for batch in data.train_dataloader():
        assert batch.keys() == {"input_ids", "attention_mask", "labels", "positive", "ids", "step"}
        for name in ("input_ids", "attention_mask", "labels"):
            assert batch[name].dtype == torch.int64
            assert batch[name].shape == batch["input_ids"].shape
        assert batch["positive"].dtype == torch.bool
        for row, name in enumerate(batch["ids"]):
            check_row(data, records[name], {key: batch[key][row] for key in batch if key not in ("ids", "step")})
        seen += batch["ids"]
    assert sorted(seen) == sorted(records)


def check_row(data: RationaleDataModule, record: Rationale, row: dict[str, torch.Tensor]) -> None:
    """One row against the tokenizer: BOS, prompt, rationale, EOS, padding; targets at rationale and EOS alone."""
    tokenizer = data.tokenizer
    head = [tokenizer.bos_token_id, *tokenizer(prompt(record.question), add_special_tokens=False)["input_ids"]]
    tail = [*tokenizer(record.rationale, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    length = len(head) + len(tail)
    assert row["input_ids"][:length].tolist() == head + tail
    assert row["attention_mask"].tolist() == [1] * length + [0] * (len(row["labels"]) - length)
    assert row["labels"][: len(head)].tolist() == [IGNORE] * len(head)
    assert row["labels"][len(head) : length].tolist() == tail
    assert (row["labels"][length:] == IGNORE).all()
    assert (row["input_ids"][length:] == tokenizer.pad_token_id).all()
    assert row["positive"].item() is (record.verdict == "positive")


def test_eos_stays_a_target_when_it_pads(student: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "student")
    (tmp_path / "student" / "config.json").write_bytes((Path(student) / "config.json").read_bytes())
    data = fitted(str(tmp_path / "student"), write_positive(tmp_path / "positive.jsonl"))
    for batch in data.train_dataloader():
        real = batch["attention_mask"].bool()
        last = batch["attention_mask"].sum(1) - 1
        assert (batch["labels"].gather(1, last[:, None]) == tokenizer.eos_token_id).all()
        assert (batch["labels"] == tokenizer.eos_token_id).sum() == len(last)  # and none at the padding
        assert (batch["labels"][~real] == IGNORE).all()


def test_loss_on_the_prompt_too(student: str, tmp_path: Path) -> None:
    data = fitted(student, write_positive(tmp_path / "positive.jsonl"), loss_on_prompt=True)
    for batch in data.train_dataloader():
        real = batch["attention_mask"].bool()
        assert torch.equal(batch["labels"][real], batch["input_ids"][real])
        assert (batch["labels"][~real] == IGNORE).all()


def test_several_files_train_together(student: str, tmp_path: Path) -> None:
    write_rationales(tmp_path / "negative.jsonl", [rationale(q, 1) for q in range(5)])
    data = fitted(student, [write_positive(tmp_path / "positive.jsonl", 3, 1), str(tmp_path / "negative.jsonl")])
    assert [example.positive for example in data.train_examples] == [True] * 3 + [False] * 5


# Packing and token budgets.


@pytest.mark.parametrize("loss_on_prompt", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"tokens_per_batch": 150}, {"packing": True, "batch_size": 2, "max_length": 120}]
)
def test_every_layout_trains_on_the_same_targets(
    student: str, tmp_path: Path, options: dict[str, Any], loss_on_prompt: bool
) -> None:
    records = [rationale(q, k) for q in range(6) for k in range(3)]
    write_rationales(tmp_path / "all.jsonl", records)
    data = fitted(student, str(tmp_path / "all.jsonl"), loss_on_prompt=loss_on_prompt, **options)
    by_id = {example.id: example for example in data.train_examples}
    seen: list[str] = []
    for batch in data.train_dataloader():
        total, right = [0, 0], [0, 0]
        for number, (name, positive) in enumerate(zip(batch["ids"], batch["positive"].tolist(), strict=True)):
            own = batch["segments"] == number if "segments" in batch else rows_of(batch, number)
            example = by_id[name]
            assert batch["input_ids"][own].tolist() == example.tokens
            if "segments" in batch:
                assert batch["position_ids"][own].tolist() == list(range(len(example.tokens)))
                assert batch["labels"][own][0] == IGNORE
            hidden = 1 if loss_on_prompt else example.prompt
            assert batch["labels"][own][hidden:].tolist() == example.tokens[hidden:]
            tokens = len(example.tokens) - hidden
            total = [total[0] + tokens, total[1] + 1]
            right = [right[0] + tokens, right[1] + 1] if positive else right
        assert batch["step"]["all"] == tuple(total)
        assert batch["step"]["positive"] == tuple(right)
        assert batch["step"]["negative"] == (total[0] - right[0], total[1] - right[1])
        seen += batch["ids"]
    assert sorted(seen) == sorted(record.id for record in records)


def rows_of(batch: dict[str, Any], row: int) -> torch.Tensor:
    """Where the real tokens of one row stand, [B, T] bool."""
    own = torch.zeros_like(batch["attention_mask"], dtype=torch.bool)
    own[row] = batch["attention_mask"][row].bool()
    return own


def test_packed_rows_are_full(student: str, tmp_path: Path) -> None:
    data = fitted(student, write_positive(tmp_path / "p.jsonl", 40), packing=True, tokens_per_batch=400, max_length=200)
    masks = [batch["attention_mask"] for batch in data.train_dataloader()]
    assert {mask.shape[0] for mask in masks[1:]} == {2}
    assert sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks) > 0.85
    assert max(mask.shape[1] for mask in masks) <= 200


def test_a_rationale_longer_than_the_budget_is_refused(student: str, tmp_path: Path) -> None:
    data = fitted(student, write_positive(tmp_path / "p.jsonl"), tokens_per_batch=20)
    with pytest.raises(InputError, match=r"data\.tokens_per_batch"):
        data.train_dataloader()


@pytest.mark.parametrize("options", [{"tokens_per_batch": 150}, {"packing": True, "batch_size": 1, "max_length": 200}])
def test_workers_make_the_same_batches(student: str, tmp_path: Path, options: dict[str, Any]) -> None:
    train = write_positive(tmp_path / "p.jsonl")
    alone, helped = (list(fitted(student, train, num_workers=n, **options).train_dataloader()) for n in (0, 2))
    assert [batch["ids"] for batch in helped] == [batch["ids"] for batch in alone]
    assert [batch["step"] for batch in helped] == [batch["step"] for batch in alone]
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize(("accelerator", "pinned"), [(CUDAAccelerator(), True), (CPUAccelerator(), False)])
def test_batches_for_a_gpu_are_pinned(
    student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accelerator: Accelerator, pinned: bool
) -> None:
    data: Any = fitted(student, write_positive(tmp_path / "p.jsonl"), validation_fraction=0.5)
    alone = {"global_rank": 0, "world_size": 1, "callbacks": [], "accumulate_grad_batches": 1}
    whole = {"limit_train_batches": 1.0, "limit_val_batches": 1.0}
    data.trainer = SimpleNamespace(accelerator=accelerator, **alone, **whole)
    assert [data.train_dataloader().pin_memory, data.val_dataloader().pin_memory] == [pinned, pinned]
    data.trainer = None
    batch = next(iter(data.train_dataloader()))
    with monkeypatch.context() as without_a_gpu:
        without_a_gpu.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
        there = pin_memory(batch)
    assert batch.keys() == there.keys()
    assert all(
        torch.equal(value, there[name]) if torch.is_tensor(value) else value == there[name]
        for name, value in batch.items()
    )


# Splits.


def test_validation_questions_are_apart_and_do_not_move(student: str, tmp_path: Path) -> None:
    records = [rationale(q, 2 * k) for q in range(40) for k in range(2)]
    splits = []
    for seed in range(3):
        random.Random(seed).shuffle(records)
        write_rationales(tmp_path / "p.jsonl", records if seed < 2 else records[:50])
        data = fitted(student, str(tmp_path / "p.jsonl"), validation_fraction=0.25)
        train, held = ({e.question_id for e in part} for part in (data.train_examples, data.validation_examples))
        assert not train & held
        assert len(data.train_examples) + len(data.validation_examples) == (80 if seed < 2 else 50)
        splits.append((train, held))
    assert splits[0] == splits[1]
    assert splits[2][0] <= splits[0][0]  # other questions in the file change nothing for those that stay
    assert splits[2][1] <= splits[0][1]
    assert 3 <= len(splits[0][1]) <= 20


def test_validation_files_take_the_place_of_the_split(student: str, tmp_path: Path) -> None:
    train, validation = write_positive(tmp_path / "t.jsonl", 6), write_positive(tmp_path / "v.jsonl", 3, 1)
    data = fitted(student, train, validation=validation, validation_fraction=0.9, eval_batch_size=2)
    assert (len(data.train_examples), len(data.validation_examples)) == (12, 3)
    batches = list(data.val_dataloader())
    assert [len(batch["ids"]) for batch in batches] == [2, 1]
    lengths = [int(n) for batch in batches for n in batch["attention_mask"].sum(1)]
    assert lengths == sorted(lengths, reverse=True)


def test_no_validation_question_is_no_batch(student: str, tmp_path: Path) -> None:
    data = fitted(student, write_positive(tmp_path / "p.jsonl"))
    assert list(data.val_dataloader()) == []


# Questions.


def test_question_batch_contract(student: str, tmp_path: Path) -> None:
    records = [question(q, question="How? " * (1 + q)) for q in range(5)]
    write_questions(tmp_path / "q.jsonl", records)
    data = RationaleDataModule(student, questions=str(tmp_path / "q.jsonl"), question_batch_size=2)
    data.setup("test")
    batches = list(data.test_dataloader())
    assert [len(batch["questions"]) for batch in batches] == [2, 2, 1]
    by_id = {record.id: record for record in records}
    for batch in batches:
        assert batch.keys() == {"input_ids", "attention_mask", "questions", "eos_token_id", "pad_token_id"}
        assert batch["eos_token_id"] == data.tokenizer.eos_token_id
        assert batch["pad_token_id"] == data.tokenizer.pad_token_id
        for ids, mask, asked in zip(batch["input_ids"], batch["attention_mask"], batch["questions"], strict=True):
            (expected,) = encode(data.tokenizer, [(by_id[asked["id"]].question, None)])
            assert ids[mask.bool()].tolist() == expected.prompt
            assert mask.tolist() == [0] * (len(mask) - len(expected.prompt)) + [1] * len(expected.prompt)
            assert asked == by_id[asked["id"]].to_json()
    assert [asked["id"] for batch in batches for asked in batch["questions"]] == ["q4", "q3", "q2", "q1", "q0"]


def test_questions_are_limited_and_left_out(student: str, tmp_path: Path) -> None:
    data = RationaleDataModule(student, questions=write_asked(tmp_path / "q.jsonl", 6), limit_questions=4)
    data.setup("predict")
    data.exclude_questions({"q1", "q3", "q5"})
    asked = [value["id"] for batch in data.predict_dataloader() for value in batch["questions"]]
    assert sorted(asked) == ["q0", "q2"]
    data.exclude_questions({"q0", "q1", "q2", "q3"})
    assert list(data.predict_dataloader()) == []


# What is left out or refused.


def test_unusable_files_name_what_is_wrong(student: str, tmp_path: Path) -> None:
    empty, latin, broken, wrong = (tmp_path / name for name in ("empty", "latin", "broken", "wrong"))
    empty.touch()
    assert "may have no right or no wrong samples" in str(refused(student, str(empty)))
    short = refused(student, write_positive(tmp_path / "p.jsonl"), max_characters=10)
    assert "holds no rationale to train on" in str(short)
    assert "--data.max_characters" in str(short)
    good = json.dumps(rationale(0).to_json())
    latin.write_bytes(good.encode() + b"\n" + good.replace("nuts", "Nüsse").encode("latin-1") + b"\n")
    assert "not UTF-8" in str(refused(student, str(latin)))
    assert refused(student, str(latin)).file == str(latin)
    broken.write_text(good + "\n\n" + good[:40] + "\n", encoding="utf-8")
    assert (refused(student, str(broken)).file, refused(student, str(broken)).line) == (str(broken), 3)
    wrong.write_text(good.replace('"verdict": "positive"', '"verdict": "yes"') + "\n", encoding="utf-8")
    error = refused(student, str(wrong))
    assert (error.line, error.field) == (1, "verdict")
    assert "positive | negative | ungradable" in str(error)
    missing = refused(student, str(tmp_path / "missing.jsonl"))
    assert (missing.problem, missing.file) == ("no such file", str(tmp_path / "missing.jsonl"))


def test_nothing_given_names_the_option(student: str, tmp_path: Path) -> None:
    assert "--data.train FILE" in str(refused(student, None))
    assert "--data.questions FILE" in str(refused(student, None, stage="predict"))
    (tmp_path / "none").touch()
    assert "holds no question" in str(refused(student, None, stage="test", questions=str(tmp_path / "none")))
    whole = refused(student, write_positive(tmp_path / "p.jsonl"), validation_fraction=1.0)
    assert whole.field == "data.validation_fraction"
