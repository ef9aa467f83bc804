"""Groups of right and wrong rationales: what a batch holds, that epochs differ, that ranks and resumed runs agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.components.encoding.tokenization import load_tokenizer
from datamodules.components.records.records import write_rationales
from datamodules.contrasts import ContrastDataModule
from dust2gold.core.errors import InputError
from tests.records import question, rationale, write_asked

QUESTIONS = 12


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """12 questions with 3 right and 4 wrong rationales; q12 has only right ones, q13 only wrong ones."""
    right = [rationale(q, 2 * k) for q in range(QUESTIONS) for k in range(3)] + [rationale(12, 0), rationale(12, 2)]
    wrong = [rationale(q, 2 * k + 1) for q in range(QUESTIONS) for k in range(4)] + [rationale(13, 1)]
    write_rationales(tmp_path / "positive.jsonl", right)
    write_rationales(tmp_path / "negative.jsonl", wrong)
    return [str(tmp_path / "positive.jsonl"), str(tmp_path / "negative.jsonl")]


@pytest.fixture
def make(tiny_student: Path, files: list[str]) -> Callable[..., ContrastDataModule]:
    """Makes a set-up DataModule."""

    def build(stage: str = "fit", **kwargs: Any) -> ContrastDataModule:
        settings = {"tokenizer": str(tiny_student), "train": files, "batch_size": 5, "validation_fraction": 0.0}
        data = ContrastDataModule(**{**settings, **kwargs})
        data.setup(stage)
        return data

    return build


def epoch(data: ContrastDataModule, number: int = 0) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(number)  # type: ignore[union-attr]
    return list(loader)


@pytest.mark.parametrize(("size", "right", "wrong"), [(2, 1, 1), (8, 3, 4)])
def test_a_batch_holds_whole_groups(
    make: Callable[..., ContrastDataModule], tiny_student: Path, size: int, right: int, wrong: int
) -> None:
    data, tokenizer = make(rationales_per_question=size), load_tokenizer(str(tiny_student))
    seen: Counter[str] = Counter()
    for batch in epoch(data):
        rows = len(batch["ids"])
        assert {len(batch[name]) for name in ("input_ids", "labels", "positive", "groups", "prompt_mask")} == {rows}
        assert batch["groups"].dtype == torch.int64
        for group in range(int(batch["groups"].max()) + 1):
            members = (batch["groups"] == group).nonzero()[:, 0].tolist()
            questions = {batch["ids"][row].split("/")[0] for row in members}
            assert len(questions) == 1
            seen.update(questions)
            verdicts = batch["positive"][members].tolist()
            assert (sum(verdicts), len(verdicts) - sum(verdicts)) == (right, wrong)
        for row, name in enumerate(batch["ids"]):
            number, k = (int(part) for part in name[1:].split("/"))
            assert batch["positive"][row] == (k % 2 == 0)
            prompt = batch["input_ids"][row][batch["prompt_mask"][row] == 1]
            asked = f"Problem:\n{question(number).question}\nSolution:\n"
            assert tokenizer.decode(prompt, skip_special_tokens=True) == asked
            answered = (batch["attention_mask"][row] == 1) & (batch["prompt_mask"][row] == 0)
            assert torch.equal(batch["labels"][row] != -100, answered)
            assert tokenizer.decode(batch["labels"][row][answered][:-1]) == rationale(number, k).rationale
    assert seen == Counter({f"q{q}": 1 for q in range(QUESTIONS)})


def test_questions_with_right_rationales_only(make: Callable[..., ContrastDataModule]) -> None:
    ids = [name for batch in epoch(make(rationales_per_question=8, right_only=True)) for name in batch["ids"]]
    assert len(ids) == len(set(ids)) == QUESTIONS * 7 + 2
    assert {"q12/0", "q12/2"} < set(ids)
    assert not any(name.startswith("q13/") for name in ids)


def test_pairs_are_drawn_anew_each_epoch_by_the_seed(make: Callable[..., ContrastDataModule]) -> None:
    def ids(data: ContrastDataModule, number: int) -> list[str]:
        return [name for batch in epoch(data, number) for name in batch["ids"]]

    first, second = (ids(make(), number) for number in (0, 1))
    assert sorted(first) != sorted(second)
    assert ids(make(), 0) == first
    assert ids(make(seed=1), 0) != first


def test_batches_know_the_counts_of_their_step(make: Callable[..., ContrastDataModule]) -> None:
    batches = epoch(make())
    for batch in batches:
        where, positive = batch["labels"][:, 1:] != -100, batch["positive"]
        expected = {
            "all": (where.sum(), len(positive)),
            "positive": (where[positive].sum(), positive.sum()),
            "negative": (where[~positive].sum(), (~positive).sum()),
        }
        assert batch["step"] == {name: (int(t), int(s)) for name, (t, s) in expected.items()}


def test_validation_questions_never_train(make: Callable[..., ContrastDataModule], files: list[str]) -> None:
    data = make(validation_fraction=0.4)
    trained = {name.split("/")[0] for batch in epoch(data) for name in batch["ids"]}
    first, second = ([batch["ids"] for batch in data.val_dataloader()] for _ in range(2))
    assert first == second
    held = {name.split("/")[0] for ids in first for name in ids}
    assert trained
    assert held
    assert not trained & held
    assert trained | held == {f"q{n}" for n in range(QUESTIONS)}
    assert list(make().val_dataloader()) == []
    assert len(list(make(validation=files).val_dataloader())) == 3


def test_questions_are_asked_as_ever(make: Callable[..., ContrastDataModule], tmp_path: Path) -> None:
    data = make("test", train=None, questions=write_asked(tmp_path / "questions.jsonl"))
    (batch,) = data.test_dataloader()
    assert [asked["id"] for asked in batch["questions"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": None}, "data.train.*nothing to train on"),
        ({"train": "positive"}, "data.train.*no question has both"),
        ({"train": "positive", "right_only": True}, "data.train.*no question has both"),
        ({"validation": "positive"}, "data.validation.*no question has both"),
        ({"rationales_per_question": 1}, "data.rationales_per_question.*at least 2"),
        ({"groups_per_question": 0}, "data.groups_per_question.*at least 1"),
    ],
)
def test_what_cannot_be_used(
    make: Callable[..., ContrastDataModule], files: list[str], arguments: dict[str, Any], message: str
) -> None:
    arguments = {name: files[0] if value == "positive" else value for name, value in arguments.items()}
    with pytest.raises(InputError, match=f"(?s){message}"):
        make(**arguments)
