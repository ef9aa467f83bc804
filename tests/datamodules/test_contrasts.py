from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.components.encoding.prompts import PLAIN
from datamodules.components.encoding.tokenization import load_tokenizer
from datamodules.contrasts import ContrastDataModule
from tests.records import question, rationale

Make = Callable[..., ContrastDataModule]


def epoch(data: ContrastDataModule, number: int = 0) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(number)  # type: ignore[union-attr]
    return list(loader)


def ids_of(batches: Any) -> list[str]:
    return [name for batch in batches for name in batch["ids"]]


def questions_of(ids: list[str]) -> set[str]:
    return {name.split("/")[0] for name in ids}


@pytest.mark.parametrize(("size", "right", "wrong"), [(2, 1, 1), (8, 3, 4)])
def test_a_batch_holds_whole_groups(make: Make, tiny_student: Path, size: int, right: int, wrong: int) -> None:
    data, tokenizer = make(ContrastDataModule, rationales_per_question=size), load_tokenizer(str(tiny_student))
    seen: list[str] = []
    for batch in epoch(data):
        assert batch["groups"].dtype == torch.int64
        for group in range(int(batch["groups"].max()) + 1):
            members = (batch["groups"] == group).nonzero()[:, 0].tolist()
            (asked,) = questions_of([batch["ids"][row] for row in members])
            seen.append(asked)
            verdicts = batch["positive"][members].tolist()
            assert (sum(verdicts), len(verdicts) - sum(verdicts)) == (right, wrong)
        fields = [batch[name] for name in ("ids", "input_ids", "attention_mask", "prompt_mask", "labels", "positive")]
        for name, ids, real, head, labels, positive in zip(*fields, strict=True):
            number, k = map(int, name[1:].split("/"))
            assert positive == (k % 2 == 0)
            assert tokenizer.decode(ids[head == 1], skip_special_tokens=True) == PLAIN.ask(question(number).question)
            answered = (real == 1) & (head == 0)
            assert torch.equal(labels != -100, answered)
            assert tokenizer.decode(labels[answered][:-1]) == rationale(number, k).rationale
    assert sorted(seen) == sorted(f"q{q}" for q in range(12))


def test_questions_with_right_rationales_only(make: Make) -> None:
    ids = ids_of(epoch(make(ContrastDataModule, rationales_per_question=8, right_only=True)))
    assert len(ids) == len(set(ids)) == 12 * 7 + 3
    assert questions_of(ids) == {f"q{q}" for q in range(13)}


def test_pairs_are_drawn_anew_each_epoch_by_the_seed(make: Make) -> None:
    first, second = (ids_of(epoch(make(ContrastDataModule), number)) for number in (0, 1))
    assert sorted(first) != sorted(second)
    assert ids_of(epoch(make(ContrastDataModule))) == first
    assert ids_of(epoch(make(ContrastDataModule, seed=1))) != first


def test_batches_know_the_counts_of_their_step(make: Make) -> None:
    for batch in epoch(make(ContrastDataModule)):
        where, positive = batch["labels"][:, 1:] != -100, batch["positive"]
        groups = {"all": torch.ones_like(positive), "positive": positive, "negative": ~positive}
        assert batch["step"] == {name: (int(where[of].sum()), int(of.sum())) for name, of in groups.items()}


def test_validation_questions_never_train(make: Make, both: list[str]) -> None:
    data = make(ContrastDataModule, validation_fraction=0.4)
    trained, first, second = (
        ids_of(batches) for batches in (epoch(data), data.val_dataloader(), data.val_dataloader())
    )
    assert first == second
    assert min(len(trained), len(first)) > 0
    assert sorted([*questions_of(trained), *questions_of(first)]) == sorted(f"q{n}" for n in range(12))
    assert list(make(ContrastDataModule).val_dataloader()) == []
    assert len(list(make(ContrastDataModule, train="others", validation=both).val_dataloader())) == 3
