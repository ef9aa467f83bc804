from __future__ import annotations

import pytest
import torch

from dust2gold.core.errors import InputError
from lightning_modules.components.distillation.storage import STORAGES
from lightning_modules.components.losses.output_head import TeacherTargets, TopK

N, D, K = 5, 8, 3


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("name", ["float16", "float32"])
def test_summaries_come_back_as_the_storage_rounds_them(name: str, calibrated: bool) -> None:
    storage = STORAGES[name](100, D, calibrated, K)
    taught = TeacherTargets(torch.randn(N, D), torch.rand(N) if calibrated else None)
    assert isinstance(taught.summary, torch.Tensor)
    columns = storage.encode(taught)
    assert {key: (value.dtype, value.shape[1:]) for key, value in columns.items()} == {
        key: (value.dtype, value.shape[1:]) for key, value in storage.columns.items()
    }
    assert sum(value.nbytes for value in columns.values()) == N * storage.row_bytes
    summary, divergence = storage.decode(columns, torch.device("cpu"))
    assert isinstance(summary, torch.Tensor)
    assert torch.equal(summary, taught.summary.to(getattr(torch, name)).float())
    assert (divergence is None) is not calibrated
    assert divergence is None or torch.equal(divergence, taught.divergence)  # type: ignore[arg-type]


@pytest.mark.parametrize("vocabulary", [2**16, 2**16 + 1])
def test_the_likeliest_tokens_come_back(vocabulary: int) -> None:
    storage = STORAGES["top_k"](vocabulary, D, True, K)
    assert storage.row_bytes == 4 + K * (2 + (2 if vocabulary == 2**16 else 4))
    tokens = torch.randint(vocabulary - 4, vocabulary, (N, K))
    summary, _ = storage.decode(
        storage.encode(TeacherTargets(TopK(tokens, torch.rand(N, K)), torch.rand(N))), torch.device("cpu")
    )
    assert isinstance(summary, TopK)
    assert torch.equal(summary.tokens, tokens)


def test_numbers_too_large_are_refused() -> None:
    taught = TeacherTargets(torch.full((N, D), 1e6), torch.zeros(N))
    with pytest.raises(InputError, match="does not fit into float16"):
        STORAGES["float16"](100, D, True, K).encode(taught)


def test_more_than_the_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="more than the vocabulary"):
        STORAGES["top_k"](100, D, True, 101)
