"""The DataModule of the decoder stages: the batches of docs/formats.md. Damaged lines: tests/test_bad_input.py."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator
from torch.utils.data._utils.pin_memory import pin_memory
from transformers import AutoTokenizer

from datamodules.components.batching.collate import IGNORE
from datamodules.components.encoding.tokenization import encode
from datamodules.components.records.records import write_questions, write_rationales
from datamodules.rationales import RationaleDataModule
from dust2gold.core.errors import InputError
from tests.records import question, rationale, write_asked, write_held, write_positive


@pytest.fixture
def student(tiny_student: Path) -> str:
    return str(tiny_student)


@pytest.fixture
def positive(tmp_path: Path) -> str:
    """24 right rationales to 12 questions."""
    return write_positive(tmp_path / "positive.jsonl")


def fitted(student: str, train: str | list[str], **kwargs: Any) -> RationaleDataModule:
    data = RationaleDataModule(student, train, **{"validation_fraction": 0.0, "batch_size": 4, **kwargs})
    data.setup("fit")
    return data


def test_eos_stays_a_target_when_it_pads(student: str, positive: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "student")
    (tmp_path / "student" / "config.json").write_bytes((Path(student) / "config.json").read_bytes())
    for batch in fitted(str(tmp_path / "student"), positive).train_dataloader():
        last = batch["attention_mask"].sum(1) - 1  # [B]
        assert (batch["labels"].gather(1, last[:, None]) == tokenizer.eos_token_id).all()
        assert (batch["labels"] == tokenizer.eos_token_id).sum() == len(last)  # and none at the padding


@pytest.mark.parametrize("loss_on_prompt", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"tokens_per_batch": 150}, {"packing": True, "batch_size": 2, "max_length": 120}]
)
def test_every_layout_trains_on_the_same_targets(
    student: str, tmp_path: Path, options: dict[str, Any], loss_on_prompt: bool
) -> None:
    write_rationales(tmp_path / "all.jsonl", [rationale(q, k) for q in range(6) for k in range(3)])
    data = fitted(student, str(tmp_path / "all.jsonl"), loss_on_prompt=loss_on_prompt, **options)
    by_id = {example.id: example for example in data.train_examples}
    seen: list[str] = []
    keys = {"input_ids", "attention_mask", "labels", "targets", "positive", "ids", "step"}
    keys |= {"eos_token_id", "pad_token_id"}
    for batch in data.train_dataloader():
        assert batch.keys() == keys | ({"position_ids", "segments", "sample_bounds"} if "packing" in options else set())
        forms = {(batch[name].dtype, batch[name].shape) for name in ("input_ids", "attention_mask", "labels")}
        assert forms == {(torch.int64, batch["input_ids"].shape)}
        assert batch["positive"].tolist() == [by_id[name].positive for name in batch["ids"]]
        rows = torch.arange(len(batch["labels"]))[:, None].masked_fill(batch["attention_mask"] == 0, -1)  # [B, T]
        counts = {"all": (0, 0), "positive": (0, 0), "negative": (0, 0)}
        for number, (name, positive) in enumerate(zip(batch["ids"], batch["positive"].tolist(), strict=True)):
            own, example = batch.get("segments", rows) == number, by_id[name]
            hidden = 1 if loss_on_prompt else example.prompt
            assert batch["input_ids"][own].tolist() == example.tokens
            assert batch["labels"][own][1:].tolist() == [IGNORE] * (hidden - 1) + example.tokens[hidden:]
            if "segments" in batch:
                assert batch["position_ids"][own].tolist() == list(range(len(example.tokens)))
                assert batch["labels"][own][0] == IGNORE
            for group in ("all", "positive" if positive else "negative"):
                counts[group] = counts[group][0] + len(example.tokens) - hidden, counts[group][1] + 1
        padding = batch["attention_mask"] == 0
        assert (batch["labels"][padding] == IGNORE).all()
        row, place = (batch["labels"][:, 1:] != IGNORE).nonzero(as_tuple=True)
        assert torch.equal(batch["targets"], row * batch["labels"].shape[1] + place)
        assert (batch["input_ids"][padding] == data.tokenizer.pad_token_id).all()
        assert batch["step"] == counts
        seen += batch["ids"]
    assert sorted(seen) == sorted(by_id)


@pytest.mark.parametrize(("accelerator", "pinned"), [(CUDAAccelerator(), True), (CPUAccelerator(), False)])
def test_batches_for_a_gpu_are_pinned(student: str, positive: str, accelerator: Accelerator, pinned: bool) -> None:
    data: Any = fitted(student, positive, validation_fraction=0.5)
    alone = {"global_rank": 0, "world_size": 1, "callbacks": [], "accumulate_grad_batches": 1}
    whole = {"limit_train_batches": 1.0, "limit_val_batches": 1.0}
    data.trainer = SimpleNamespace(accelerator=accelerator, lightning_module=None, **alone, **whole)
    assert [data.train_dataloader().pin_memory, data.val_dataloader().pin_memory] == [pinned, pinned]


def test_pinning_keeps_a_batch(student: str, positive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = next(iter(fitted(student, positive).train_dataloader()))
    with monkeypatch.context() as without_a_gpu:
        without_a_gpu.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
        there = pin_memory(batch)
    assert there.keys() == batch.keys()
    assert all(torch.equal(there[n], v) if torch.is_tensor(v) else there[n] == v for n, v in batch.items())


def test_several_files_train_together(student: str, tmp_path: Path) -> None:
    write_rationales(tmp_path / "negative.jsonl", [rationale(q, 1) for q in range(5)])
    data = fitted(student, [write_positive(tmp_path / "positive.jsonl", 3, 1), str(tmp_path / "negative.jsonl")])
    assert [example.positive for example in data.train_examples] == [True] * 3 + [False] * 5
    assert list(data.val_dataloader()) == []


def test_validation_files_take_the_place_of_the_split(student: str, tmp_path: Path) -> None:
    train, validation = write_positive(tmp_path / "t.jsonl", 6), write_held(tmp_path / "v.jsonl", 3, 1)
    data = fitted(student, train, validation=validation, validation_fraction=0.9, eval_batch_size=2)
    assert (len(data.train_examples), len(data.validation_examples)) == (12, 3)
    assert [len(batch["ids"]) for batch in data.val_dataloader()] == [2, 1]


def test_question_batch_contract(student: str, tmp_path: Path) -> None:
    records = [question(q, question="How? " * (1 + q)) for q in range(5)]
    write_questions(tmp_path / "q.jsonl", records)
    data = RationaleDataModule(student, questions=str(tmp_path / "q.jsonl"), question_batch_size=2)
    data.setup("test")
    batches = list(data.test_dataloader())
    assert [[asked["id"] for asked in batch["questions"]] for batch in batches] == [["q4", "q3"], ["q2", "q1"], ["q0"]]
    for batch in batches:
        assert batch.keys() == {"input_ids", "attention_mask", "questions", "eos_token_id", "pad_token_id"}
        assert batch["eos_token_id"] == [data.tokenizer.eos_token_id]
        assert batch["pad_token_id"] == data.tokenizer.pad_token_id
        for ids, mask, asked in zip(batch["input_ids"], batch["attention_mask"], batch["questions"], strict=True):
            assert asked == records[int(asked["id"][1:])].to_json()
            ((expected, _),) = encode(data.tokenizer, [(asked["question"], None)])
            assert ids[mask.bool()].tolist() == expected
            assert mask.tolist() == [0] * (len(mask) - len(expected)) + [1] * len(expected)


def test_questions_are_limited_and_left_out(student: str, tmp_path: Path) -> None:
    data = RationaleDataModule(student, questions=write_asked(tmp_path / "q.jsonl", 6), limit_questions=4)
    data.setup("predict")
    data.exclude_questions({"q1", "q3", "q5"})
    asked = [value["id"] for batch in data.predict_dataloader() for value in batch["questions"]]
    assert sorted(asked) == ["q0", "q2"]
    data.exclude_questions({"q0", "q1", "q2", "q3"})
    assert list(data.predict_dataloader()) == []


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_the_training_limit_is_none_on_questions(
    student: str, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [question(0, question="How? " * 20), question(1)]
    write_questions(tmp_path / "q.jsonl", questions)
    given: Any = {"questions": str(tmp_path / "q.jsonl"), "max_length": 8, "max_new_tokens": 200}
    data = RationaleDataModule(student, **given)
    data.setup(stage)
    assert [each.id for each, _ in data.questions] == ["q0", "q1"]
    assert "1 questions leave less than 200 tokens for an answer in the context of 256" in capsys.readouterr().err
    write_questions(tmp_path / "q.jsonl", [question(1), question(0, question="How? " * 200)])
    with pytest.raises(InputError, match=r"q\.jsonl:2: field 'question': 'q0' has .* context of 256 holds no answer"):
        RationaleDataModule(student, **given).setup(stage)


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("fit", {"train": "none.jsonl"}, "none.jsonl: no such file"),
        ("fit", {"train": "empty"}, "holds no rationale.*may have no right or no wrong samples"),
        ("fit", {"train": "positive.jsonl", "max_characters": 10}, "holds no rationale.*--data.max_characters"),
        ("predict", {}, "data.questions.*--data.questions FILE"),
        ("test", {"questions": "empty"}, "holds no question"),
    ],
)
def test_what_cannot_be_used(
    student: str, positive: str, tmp_path: Path, stage: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "empty").touch()
    given: dict[str, Any] = {n: str(tmp_path / v) if isinstance(v, str) else v for n, v in options.items()}
    with pytest.raises(InputError, match=f"(?s){message}"):
        RationaleDataModule(student, **given).setup(stage)
