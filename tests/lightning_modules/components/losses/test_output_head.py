import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from lightning_modules.components.losses.output_head import CHUNK_BYTES, OutputHead, TopK, chunks
from lightning_modules.components.losses.reverse_divergence import reverse_divergence
from tests.lightning_modules.components.losses.cases import gradient_of, normal

V, D, N = 50, 8, 23
TOKENS = torch.arange(N)


@pytest.fixture(params=[1, 7, N, 1000], ids=lambda rows: f"{rows} rows a chunk")
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OutputHead:
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 4 * V * request.param)
    return OutputHead(normal(V, D, seed=1), scale=0.7)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_chunked_is_dense(head: OutputHead, temperature: float) -> None:
    hidden = normal(N, D).requires_grad_()
    logits = hidden @ head.weight.T * head.scale
    dense_z, dense = (logits / temperature).logsumexp(-1), logits.log_softmax(-1)[TOKENS, TOKENS * 2]
    (log_z, mean), logprobs = head.partition(hidden, temperature), head.logprobs(hidden, TOKENS * 2)
    close(mean, (logits / temperature).softmax(-1) @ head.weight * head.scale)
    assert not mean.requires_grad
    for actual, expected in ((log_z, dense_z), (logprobs, dense)):
        close(actual, expected)
        close(gradient_of(actual, hidden), gradient_of(expected, hidden))
    with torch.no_grad():
        close(head.log_z(hidden, temperature), log_z)
        close(head.logprobs(hidden, TOKENS * 2), dense)


def test_no_row_is_no_trouble(head: OutputHead) -> None:
    hidden = normal(0, D).requires_grad_()
    logprobs = head.logprobs(hidden, TOKENS[:0])
    assert logprobs.shape == (0,)
    gradient_of(logprobs, hidden)
    means, likeliest = (head.teacher_targets(hidden, hidden, top_k=k).summary for k in (None, 3))
    assert isinstance(means, Tensor)
    assert isinstance(likeliest, TopK)
    assert [part.shape for part in (means, *likeliest)] == [(0, D), (0, 3), (0, 3)]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 9, V])
def test_top_k_is_completed_by_the_students_tail(head: OutputHead, k: int, temperature: float) -> None:
    student, nat = normal(N, D).requires_grad_(), normal(N, D, seed=3)
    logits, taught = (h @ head.weight.T * head.scale for h in (student, nat))
    p, log_q = (taught / temperature).softmax(-1), (logits / temperature).log_softmax(-1)
    completed = torch.zeros_like(p)
    for row in range(N):
        kept = set(p[row].argsort(descending=True)[:k].tolist())
        rest = [v for v in range(V) if v not in kept]
        shape = log_q[row].detach().exp()[rest]
        completed[row, list(kept)] = p[row, list(kept)]
        completed[row, rest] = p[row, rest].sum() * shape / shape.sum()
    likeliest = head.teacher_targets(nat, None, temperature, top_k=k)
    assert likeliest.divergence is None
    _, soft = head.distillation_terms(student, TOKENS, likeliest.summary, temperature)
    expected = -(completed * log_q).sum(-1)
    close(soft, expected)
    close(gradient_of(soft, student), gradient_of(expected, student))
    if k == V:
        close(soft, -(p * log_q).sum(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_reduced_in_float32(dtype: torch.dtype) -> None:
    weight, half = normal(V, D, seed=1).to(dtype), normal(N, D, scale=3).to(dtype).requires_grad_()
    exact = half.detach().double().requires_grad_()
    expected = (exact @ weight.double().T).log_softmax(-1)[TOKENS, TOKENS]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = OutputHead(weight).logprobs(half, TOKENS)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient_of(actual, half).double(), gradient_of(expected, exact), rtol=eps, atol=2 * eps)


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """As it computes under autocast: factors rounded to `dtype`, products summed in float32, no products of 1 × 1."""

    def product(products: Any, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        assert left.dtype == right.dtype == dtype
        return torch.mm(left.float(), right.float(), out=out)

    module = "lightning_modules.components.losses.output_head"
    monkeypatch.setattr(f"{module}._product_dtype", lambda weight, hidden: dtype)
    monkeypatch.setattr(f"{module}.Products._product", product)
    monkeypatch.setattr(f"{module}._dots", lambda one, other: one.mul_(other).sum(-1))


def everything(head: OutputHead, given: list[Tensor], temperature: float) -> list[Tensor]:
    """What all losses ask of a head, and its gradients: of a student's, NAT's and NEG's hidden states [N, d]."""
    student, nat, negative = given
    found: list[Tensor] = [head.log_z(nat, temperature)]
    for k in (None, 9):
        taught = head.teacher_targets(nat, negative, temperature, top_k=k)
        assert taught.divergence is not None
        logprobs, soft = head.distillation_terms(student, TOKENS, taught.summary, temperature)
        found += [taught.divergence, logprobs, soft, gradient_of(soft - 3 * logprobs, student)]
    reverse = reverse_divergence(head, student, nat)
    return [*found, reverse, gradient_of(reverse, student)]


COMPILES = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor wants a C++ compiler")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[COMPILES, pytest.mark.slow])])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_fused_is_chunked(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, backend: str) -> None:
    """And near float64: in half precision, as on a GPU, within what rounding the factors makes."""
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 4 * V * 9)  # chunks of 9, 9 and 5 rows
    weight, given = normal(V, D, seed=1), [normal(N, D, seed=seed).requires_grad_(seed == 0) for seed in range(3)]
    exact = everything(OutputHead(weight, 0.7), given, 2.0)
    if dtype != torch.float64:
        as_on_a_gpu(monkeypatch, dtype)
        weight, given = weight.float(), [each.detach().float().requires_grad_(each.requires_grad) for each in given]
    chunked = everything(OutputHead(weight, 0.7), given, 2.0)
    torch._dynamo.reset()
    counters.clear()
    head = OutputHead(weight, 0.7)
    head.compile(backend)
    fused = everything(head, given, 2.0)
    assert (counters["stats"]["unique_graphs"] >= 4, dict(counters["graph_break"])) == (True, {})
    near, error = (1e-10, 1e-10) if dtype == torch.float64 else (3e-5, 2e-2)
    for one, other, reference in zip(fused, chunked, exact, strict=True):
        if dtype != torch.float64 and backend == "inductor":
            # It does not round between operations that it fuses: equal to bfloat16's rounding, 2⁻⁸.
            assert (one - other).norm() <= 2**-8 * other.norm()
        else:
            torch.testing.assert_close(one, other, rtol=near, atol=near)
        assert (one.double() - reference).norm() <= error * reference.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tokens_logit_and_the_partition_see_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    as_on_a_gpu(monkeypatch, dtype)
    weight, hidden = normal(V, 64, seed=1).float() / 4, normal(N, 64).float()
    hidden[0] = 8 * weight[0]  # a learnt token: log P(y) near 0 from below
    logits = hidden.to(dtype).double() @ weight.to(dtype).double().T
    head = OutputHead(weight)
    logprobs = torch.stack([head.logprobs(hidden, torch.full((N,), token)) for token in range(V)], -1)
    torch.testing.assert_close(logprobs.double(), logits.log_softmax(-1), rtol=1e-5, atol=3e-5)
    nat = normal(N, 64, seed=3).float()
    p = (nat.to(dtype).double() @ weight.to(dtype).double().T).softmax(-1)
    taught = head.teacher_targets(nat, None, top_k=V)
    _, soft = head.distillation_terms(hidden, TOKENS, taught.summary)
    torch.testing.assert_close(soft.double(), -(p * logits.log_softmax(-1)).sum(-1), rtol=1e-5, atol=3e-4)


def test_autocast_rounds_no_sums() -> None:
    weight, student, nat, other = (normal(n, 64, seed=k).float() for k, n in enumerate((V, N, N, N)))
    head, negative, found = OutputHead(weight, scale=0.3), student + (other - student) / 8, []
    for mixed in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            taught = head.teacher_targets(nat, negative)
            likeliest = head.teacher_targets(nat, negative, top_k=5).summary
            found.append([taught.divergence, head.distillation_terms(student, TOKENS, likeliest)[1]])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_chunks_cover_all_rows_within_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    assert (len(list(chunks(1024, 2**20, cpu))), len(list(chunks(1024, 2**20, gpu)))) == (128, 16)
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 4 * 10 * 3)
    assert list(chunks(7, 10, cpu)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(chunks(2, 1000, cpu)) == [slice(0, 1), slice(1, 2)]
    assert list(chunks(0, 10, cpu)) == []
