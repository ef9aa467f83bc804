from __future__ import annotations

import json

import pytest
import torch

from benchmarks.padding import GLOBAL, Epoch, GlobalPadding, RandomBatches, main, plan_epoch, stored_lengths
from benchmarks.students import SMOLLM2
from datamodules.components.batching.collate import IGNORE, Labelled
from datamodules.components.batching.plan import TokenBudget

SAMPLES = [Labelled([5] * n, [IGNORE, *[5] * (n - 1)]) for n in (3, 9, 4, 4, 10, 2, 7)]


def test_global_padding_pads_to_the_longest_of_all() -> None:
    batch = GlobalPadding(2, 10).collate(SAMPLES[:1], 0)
    assert {name: t.tolist() for name, t in batch.items()} == {
        "input_ids": [[5] * 3 + [0] * 7],
        "attention_mask": [[1] * 3 + [0] * 7],
        "labels": [[IGNORE, 5, 5] + [IGNORE] * 7],
    }


def test_shares_are_counted_over_the_epoch() -> None:
    padded = plan_epoch(GLOBAL, GlobalPadding(2, 10), SAMPLES, 0)
    assert sum(padded.sizes) == 70
    assert padded.share == pytest.approx(39 / 70)
    assert len(padded.batches) == 4
    assert padded.share < plan_epoch("buckets", TokenBudget(20), SAMPLES, 0).share
    assert sorted(row for batch in plan_epoch("", RandomBatches(3), SAMPLES, 0).batches for row in batch) == [*range(7)]


def test_measured_batches_stand_for_all_sizes() -> None:
    epoch = Epoch(RandomBatches(1), [[k] for k in range(100)], 0, sizes=[(37 * k) % 100 for k in range(100)])
    sizes = [(37 * batch[0]) % 100 for batch in epoch.spread(5)]
    assert sizes == [10, 30, 50, 70, 90]


def test_stored_lengths_are_those_of_the_papers_data() -> None:
    for verdict, (count, mean) in {"positive": (20_856, 182.3), "negative": (33_273, 340.0)}.items():
        lengths = torch.tensor(stored_lengths(verdict)).double()
        assert len(lengths) == count
        assert float(lengths.sum(1).mean()) == pytest.approx(mean, abs=0.05)
        assert (lengths > 0).all()


@pytest.mark.slow
def test_the_command_ends_with_its_targets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"hidden_size": 36, "intermediate_size": 64, "vocab_size": 3000}.items():
        monkeypatch.setitem(SMOLLM2, name, value)
    main(["--quick", "--threads", "1"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    shares = {name: target for name, target in last["targets"].items() if name.startswith("real tokens")}
    assert len(last["targets"]) == 4
    assert len(shares) == 2
    assert all(target["met"] for target in shares.values())
