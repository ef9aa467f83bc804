"""Groups of right and wrong rationales: what a batch holds, that epochs differ, that ranks and resumed runs agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.components.encoding.prompts import prompt
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


def ids_of(batches: Any) -> list[str]:
    return [name for batch in batches for name in batch["ids"]]


def questions_of(ids: list[str]) -> set[str]:
    return {name.split("/")[0] for name in ids}


@pytest.mark.parametrize(("size", "right", "wrong"), [(2, 1, 1), (8, 3, 4)])
def test_a_batch_holds_whole_groups(
    make: Callable[..., ContrastDataModule], tiny_student: Path, size: int, right: int, wrong: int
) -> None:
    data, tokenizer = make(rationales_per_question=size), load_tokenizer(str(tiny_student))
    seen: list[str] = []
    for batch in epoch(data):
        assert batch["groups"].dtype == torch.int64
        for group in range(int(batch["groups"].max()) + 1):
            members = (batch["groups"] == group).nonzero()[:, 0].tolist()
            (asked,) = questions_of([batch["ids"][row] for row in members])
            seen.append(asked)
            verdicts = batch["positive"][members].tolist()
            assert (sum(verdicts), len(verdicts) - sum(verdicts)) == (right, wrong)
        fields = [
            batch[name] for name in ("input_ids", "attention_mask", "prompt_mask", "labels", "positive", "groups")
        ]
        for name, ids, real, head, labels, positive, _ in zip(batch["ids"], *fields, strict=True):
            number, k = map(int, name[1:].split("/"))
            assert positive == (k % 2 == 0)
            assert tokenizer.decode(ids[head == 1], skip_special_tokens=True) == prompt(question(number).question)
            answered = (real == 1) & (head == 0)
            assert torch.equal(labels != -100, answered)
            assert tokenizer.decode(labels[answered][:-1]) == rationale(number, k).rationale
    assert sorted(seen) == sorted(f"q{q}" for q in range(QUESTIONS))


def test_questions_with_right_rationales_only(make: Callable[..., ContrastDataModule]) -> None:
    ids = ids_of(epoch(make(rationales_per_question=8, right_only=True)))
    assert len(ids) == len(set(ids)) == QUESTIONS * 7 + 2
    assert questions_of(ids) == {f"q{q}" for q in range(13)}


def test_pairs_are_drawn_anew_each_epoch_by_the_seed(make: Callable[..., ContrastDataModule]) -> None:
    first, second = (ids_of(epoch(make(), number)) for number in (0, 1))
    assert sorted(first) != sorted(second)
    assert ids_of(epoch(make())) == first
    assert ids_of(epoch(make(seed=1))) != first


def test_batches_know_the_counts_of_their_step(make: Callable[..., ContrastDataModule]) -> None:
    for batch in epoch(make()):
        where, positive = batch["labels"][:, 1:] != -100, batch["positive"]
        groups = {"all": torch.ones_like(positive), "positive": positive, "negative": ~positive}
        assert batch["step"] == {name: (int(where[of].sum()), int(of.sum())) for name, of in groups.items()}


def test_validation_questions_never_train(make: Callable[..., ContrastDataModule], files: list[str]) -> None:
    data = make(validation_fraction=0.4)
    trained, first, second = (
        ids_of(batches) for batches in (epoch(data), data.val_dataloader(), data.val_dataloader())
    )
    assert first == second
    assert min(len(trained), len(first)) > 0
    assert sorted([*questions_of(trained), *questions_of(first)]) == sorted(f"q{n}" for n in range(QUESTIONS))
    assert list(make().val_dataloader()) == []
    assert len(list(make(validation=files).val_dataloader())) == 3


def test_questions_are_asked_as_ever(make: Callable[..., ContrastDataModule], tmp_path: Path) -> None:
    (batch,) = make("test", train=None, questions=write_asked(tmp_path / "questions.jsonl", 3)).test_dataloader()
    assert sorted(asked["id"] for asked in batch["questions"]) == ["q0", "q1", "q2"]


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
