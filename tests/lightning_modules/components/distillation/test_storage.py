import pytest
import torch

from dust2gold.core.errors import InputError
from lightning_modules.components.distillation.storage import STORAGES
from lightning_modules.components.losses.output_head import TeacherTargets, TopK

N, D, K = 5, 8, 3
CPU = torch.device("cpu")


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize(("name", "size"), [("float16", 2 * D), ("float32", 4 * D)])
def test_summaries_come_back_as_the_storage_rounds_them(name: str, size: int, calibrated: bool) -> None:
    storage = STORAGES[name](100, D, calibrated, K)
    taught = TeacherTargets(torch.randn(N, D), torch.rand(N) if calibrated else None)
    columns = storage.encode(taught)
    for key, column in storage.columns.items():
        assert (columns[key].dtype, columns[key].shape) == (column.dtype, (N, *column.shape[1:]))
    assert sum(value.nbytes for value in columns.values()) == N * (size + 4 * calibrated)
    found = storage.decode(columns, CPU)
    assert isinstance(taught.summary, torch.Tensor)
    rounded = TeacherTargets(taught.summary.to(getattr(torch, name)).float(), taught.divergence)
    torch.testing.assert_close(found, rounded, rtol=0, atol=0)


@pytest.mark.parametrize(("vocabulary", "size"), [(2**16, 4), (2**16 + 1, 6)])
def test_the_likeliest_tokens_come_back(vocabulary: int, size: int) -> None:
    storage = STORAGES["top_k"](vocabulary, D, True, K)
    taught = TeacherTargets(TopK(torch.randint(vocabulary - 4, vocabulary, (N, K)), torch.rand(N, K)), torch.rand(N))
    columns = storage.encode(taught)
    assert sum(value.nbytes for value in columns.values()) == N * (K * size + 4)
    found = storage.decode(columns, CPU)
    torch.testing.assert_close(found, taught, rtol=1e-3, atol=0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit into float16"):
        STORAGES["float16"](100, D, False, K).encode(TeacherTargets(torch.full((N, D), 1e6), None))
    with pytest.raises(InputError, match="more than the vocabulary"):
        STORAGES["top_k"](100, D, True, 101)
