import json
from typing import Any

import pytest
import torch

from benchmarks import nat_step
from benchmarks.students import build_student, random_batch

pytestmark = pytest.mark.filterwarnings("ignore")

TINY = ["--shape", "tiny", "--batch", "2", "--sequence", "20", "--rounds", "1", "--threads", "1"]


def build(name: str, *words: str) -> nat_step.Variant:
    options = nat_step.parse([*TINY, *words])
    torch.manual_seed(0)
    base = build_student("tiny", dtype=getattr(torch, options.dtype))
    return nat_step.build(name, base, random_batch(base, options.batch, options.sequence), options)


def test_both_forms_of_nat_agree() -> None:
    found = []
    for name in (nat_step.REFERENCE, nat_step.OURS):
        variant = build(name)
        hidden = variant.hidden()
        hidden.backward(torch.linspace(-1, 2, hidden.numel()).view_as(hidden))
        found.append((hidden, {n: p.grad for n, p in variant.stack.named_parameters() if p.requires_grad}))
    (reference, theirs), (ours, own) = found
    torch.testing.assert_close(ours, reference)
    assert theirs.keys() == own.keys()
    for name, gradient in theirs.items():
        assert gradient is not None
        assert (own[name] - gradient).norm() < 1e-4 * gradient.norm(), name  # type: ignore[operator]


@pytest.mark.parametrize("words", [[], ["--quick", "--gradient-checkpointing", "--dropout", "0.1"]])
def test_it_runs_and_ends_in_json(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    nat_step.main([*TINY, *words])
    out = capsys.readouterr().out.splitlines()
    result: dict[str, Any] = json.loads(out[-1])
    assert {t["target"] for t in result["targets"].values()} == {1.1, 1.05, 0.8}
    assert set(result["milliseconds"]) == ({"decoder"} if "--quick" in words else {"decoder", "step", "decode"})
    assert result["rates"][nat_step.OURS]["tokens_per_second"] > 0


def test_bfloat16_trains_under_autocast() -> None:
    variant = build(nat_step.OURS, "--dtype", "bfloat16")
    assert variant.hidden().dtype == torch.bfloat16
    before = [p.detach().clone() for p in variant.stack.parameters() if p.requires_grad]
    variant.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, variant.optimizer.param_groups[0]["params"], strict=True))
