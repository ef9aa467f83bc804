import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dust2gold.core.errors import InputError
from lightning_modules.components.losses.negatives import REDI, NegativeTraining, Objective, Unlikelihood, log1mexp
from lightning_modules.components.losses.targets import find_targets
from tests.lightning_modules import paper
from tests.lightning_modules.components.losses.cases import average, by_sample, gradient_of, make_batch, random_logprobs

LENGTHS, VERDICTS = [3, 2, 4, 1, 2], [True, False, False, True, False]


def losses(weight: float = 0.3) -> dict[str, Objective]:
    likelihoods = {"ul-sequence": Unlikelihood(weight), "ul-token": Unlikelihood(weight, "token")}
    return {"nt": NegativeTraining(weight), **likelihoods, "redi": REDI(weight)}


def reference(name: str, rows: list[list[float]], verdicts: list[bool], weight: float) -> float:
    """The formulas of docs/method.md, word for word."""
    right = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict]
    wrong = [row for row, verdict in zip(rows, verdicts, strict=True) if not verdict]
    if name == "redi":
        return -average([average(row) for row in right]) + weight * average([average(row) for row in wrong])
    penalty = {
        "nt": average([p for row in wrong for p in row]),
        "ul-token": -average([math.log(-math.expm1(p)) for row in wrong for p in row]),
        # a sample without targets has no P, but counts
        "ul-sequence": -average([math.log(-math.expm1(average(row))) if row else 0.0 for row in wrong]),
    }
    return -average([p for row in right for p in row]) + weight * penalty[name]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    weight=st.sampled_from([0.0, 0.05, 1.7]),
)
def test_losses_equal_their_formulas(rows: list[tuple[int, bool]], seed: int, weight: float) -> None:
    lengths, verdicts = [n for n, _ in rows], [v for _, v in rows]
    targets = find_targets(make_batch(lengths, verdicts))
    logprobs = random_logprobs(sum(lengths), seed, 4.0).requires_grad_()
    right = torch.tensor(verdicts)[targets.sample]
    for name, loss in losses(weight).items():
        actual = loss(logprobs, targets)
        expected = reference(name, by_sample(logprobs.detach(), lengths), verdicts, weight)
        paper.assert_exact(actual, torch.tensor(expected, dtype=torch.float64), name)
        gradient = gradient_of(actual, logprobs)
        assert (gradient[right] < 0).all(), "right rationales become likelier"
        assert (gradient[~right] > 0).all() if weight else (gradient[~right] == 0).all(), "wrong ones less likely"


@pytest.mark.parametrize("name", losses())
def test_accumulated_micro_batches_are_one_batch(name: str) -> None:
    """With the step's counts halved, the mean over two micro-batches is the loss of the whole, however uneven."""
    logprobs, loss = random_logprobs(sum(LENGTHS)), losses()[name]
    counts = {"all": (6.0, 2.5), "positive": (2.0, 1.0), "negative": (4.0, 1.5)}  # (12, 5), (4, 2), (8, 3) over 2
    parts = [(LENGTHS[:1], VERDICTS[:1], logprobs[:3]), (LENGTHS[1:], VERDICTS[1:], logprobs[3:])]
    halves = [loss(p, find_targets({**make_batch(n, v), "step": counts})) for n, v, p in parts]
    paper.assert_exact(sum(halves) / 2, loss(logprobs, find_targets(make_batch(LENGTHS, VERDICTS))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", losses())
@pytest.mark.parametrize("value", [0.0, 1e-6, -1e4])
def test_gradients_are_finite_at_the_extremes(dtype: torch.dtype, name: str, value: float) -> None:
    """log P → 0 (float rounding puts it above, too) and log P so low that P underflows."""
    logprobs = torch.full((4,), value, dtype=dtype, requires_grad=True)
    gradient_of(losses()[name](logprobs, find_targets(make_batch([2, 2], [True, False]))), logprobs)


@settings(max_examples=200, deadline=None)
@given(x=st.floats(-700, -1e-12))
def test_log1mexp_is_exact_at_both_ends(x: float) -> None:
    expected = math.log(-math.expm1(x)) if x > -0.5 else math.log1p(-math.exp(x))
    value = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    result = log1mexp(value)
    assert result.item() == pytest.approx(expected, rel=1e-13, abs=1e-300)
    assert gradient_of(result, value).item() == pytest.approx(math.exp(x) / math.expm1(x), rel=1e-12, abs=1e-300)


def test_log1mexp_at_the_border() -> None:
    x = torch.tensor([0.0, 1e-5, -math.inf], requires_grad=True)
    result = log1mexp(x)
    assert result.tolist() == [pytest.approx(math.log(2.0**-23)), pytest.approx(math.log(2.0**-23)), 0.0]
    assert gradient_of(result, x).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("objective", [NegativeTraining, Unlikelihood, REDI])
def test_a_negative_weight_is_refused(objective: type[Objective]) -> None:
    with pytest.raises(InputError, match="must not be negative"):
        objective(weight=-0.1)  # type: ignore[call-arg]


def test_verdicts_are_needed() -> None:
    targets = find_targets({"labels": make_batch([2], [True])["labels"]})
    with pytest.raises(ValueError, match="positive"):
        NegativeTraining()(random_logprobs(2), targets)
