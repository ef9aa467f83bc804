import pytest
import torch
from torch import Tensor

from lightning_modules.components.losses.model_head import ModelHead, find_head
from lightning_modules.components.losses.output_head import CHUNK_BYTES, OutputHead
from lightning_modules.components.losses.reverse_divergence import reverse_divergence
from tests.lightning_modules import paper
from tests.lightning_modules.components.losses.cases import gradient_of, normal
from tests.lightning_modules.components.losses.test_model_head import model_of

V, D, N = 50, 8, 23


def dense(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student ‖ teacher) of logits [N, V]."""
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize("rows", [1, 7, N, 1000])
def test_chunked_is_dense(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 4 * V * rows)
    head = OutputHead(normal(V, D, seed=1), scale=0.7)
    hidden, teacher = (normal(N, D, seed=seed, scale=3.0).requires_grad_() for seed in (2, 3))
    actual = reverse_divergence(head, hidden, teacher)
    expected = dense(hidden @ head.weight.T * 0.7, (teacher @ head.weight.T * 0.7).detach())
    paper.assert_exact(actual, expected)
    paper.assert_exact(gradient_of(actual, hidden), gradient_of(expected, hidden))
    assert torch.autograd.grad(actual.sum(), teacher, allow_unused=True)[0] is None
    paper.assert_exact(reverse_divergence(head, hidden, hidden), torch.zeros(N, dtype=torch.float64))


def test_a_token_by_its_formula() -> None:
    head = OutputHead(normal(V, D, seed=1))
    hidden, teacher = normal(1, D, seed=2), normal(1, D, seed=3)
    log_p, log_q = (paper.log_softmax((h @ head.weight.T)[0].tolist()) for h in (hidden, teacher))
    p = torch.tensor(log_p, dtype=torch.float64).exp()
    expected = (p * (torch.tensor(log_p) - torch.tensor(log_q))).sum()
    torch.testing.assert_close(reverse_divergence(head, hidden, teacher)[0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["gemma2", "gptj", "llama", "granite"])
@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_any_head(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 16 * V * rows)
    model = model_of(name)
    head = find_head(model)
    hidden, teacher = (normal(9, D, seed=seed).requires_grad_() for seed in (2, 3))
    actual = reverse_divergence(head, hidden, teacher)
    logits = ModelHead(model).logits
    expected = dense(logits(hidden), logits(teacher).detach())
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient_of(actual, hidden), gradient_of(expected, hidden), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_near(dtype: torch.dtype) -> None:
    weight, (hidden, teacher) = normal(V, D, seed=1).to(dtype), (normal(N, D, seed=seed).to(dtype) for seed in (2, 3))
    hidden.requires_grad_()
    found = reverse_divergence(OutputHead(weight), hidden, teacher)
    assert found.dtype == torch.float32
    wide = hidden.detach().double().requires_grad_()
    exact = reverse_divergence(OutputHead(weight.double()), wide, teacher.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)
    given = gradient_of(found, hidden), gradient_of(exact, wide)
    torch.testing.assert_close(given[0].double(), given[1], rtol=1e-2, atol=1e-3)


def test_no_row_is_no_trouble() -> None:
    hidden = normal(0, D).requires_grad_()
    assert gradient_of(reverse_divergence(OutputHead(normal(V, D)), hidden, hidden), hidden).shape == (0, D)
