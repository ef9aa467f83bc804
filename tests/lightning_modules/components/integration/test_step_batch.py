from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import nat_step
from benchmarks.students import build_student, random_batch
from lightning_modules.components.adapters.nat import UnitSettings, build_nat
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.integration import step_batch


def nat(
    new_stack: Callable[..., AdapterStack], negative: Path, settings: UnitSettings
) -> tuple[AdapterStack, nn.ModuleDict]:
    stack = new_stack("float64")
    units = build_nat(stack, negative, LoraSettings(r=3, alpha=9, dropout=0.3), settings).double()
    for number, parameter in enumerate([*units.parameters(), *(p for p in stack.parameters() if p.requires_grad)]):
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)).double()
    return stack.train(), units


def loss_and_gradients(stack: AdapterStack, units: nn.ModuleDict, batch: dict[str, Tensor]) -> list[Tensor]:
    torch.manual_seed(3)  # of dropout
    loss = stack.hidden(batch["input_ids"], batch["attention_mask"]).square().sum()
    trained = [*units.parameters(), *(p for p in stack.parameters() if p.requires_grad)]
    return [loss.detach(), *torch.autograd.grad(loss, trained)]


@pytest.mark.parametrize(
    "settings",
    [
        UnitSettings(8, 12),
        UnitSettings(8, 12, delta=True),
        UnitSettings(8, 12, attention=False),
        UnitSettings(8, 12, scale_gate=False),
    ],
    ids=["scaled", "delta", "no gate", "unscaled"],
)
def test_matrices_made_together_give_the_same_loss_and_gradients(
    new_stack: Any, negative_directory: Path, make_batch: Any, settings: UnitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, units = nat(new_stack, negative_directory, settings)
    groups: list[int] = []
    together = step_batch.make_together

    def count(members: Any, *rest: Any) -> Any:
        groups.append(len(members))
        return together(members, *rest)

    monkeypatch.setattr(step_batch, "make_together", count)
    found = loss_and_gradients(stack, units, make_batch())
    assert groups == [2, 2]  # of two layers: q_proj, and v_proj, which is half as wide
    assert all(unit.given is None for unit in units.values())
    monkeypatch.setattr(step_batch.StepBatch, "_give", lambda *_: None)
    torch.testing.assert_close(found, loss_and_gradients(stack, units, make_batch()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", ["no gradients", "frozen units", "another adapter", "an error"])
def test_units_are_left_alone(new_stack: Any, negative_directory: Path, make_batch: Any, case: str) -> None:
    stack, units = nat(new_stack, negative_directory, UnitSettings(8, 12))
    batch, given = make_batch(), []
    unit = next(iter(units.values()))
    unit.register_forward_pre_hook(lambda module, _: given.append(module.given))
    arguments = batch["input_ids"], batch["attention_mask"]
    stack.hidden(*arguments)
    assert given[-1] is not None
    if case == "no gradients":
        with torch.no_grad():
            stack.hidden(*arguments)
    elif case == "frozen units":
        units.requires_grad_(False)
        stack.hidden(*arguments)
    elif case == "another adapter":
        seen = len(given)
        with stack.using("negative"):
            stack.hidden(*arguments)
        assert len(given) == seen
        return
    else:
        stack.base.get_decoder().layers[-1].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stack.hidden(*arguments)
        assert unit.given is None
        return
    assert given[-1] is None


class Operations(TorchDispatchMode):
    """Counts what is computed; views and allocations launch nothing on a GPU."""

    count = 0
    views = "view transpose slice unsqueeze expand .t. detach alias split select unbind strided empty".split()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not any(view in str(func) for view in self.views)
        return func(*args, **(kwargs or {}))


def test_nat_takes_fewer_operations_than_the_papers_form() -> None:
    """Forward and backward, of 30 layers."""
    options = nat_step.parse(["--shape", "tiny", "--batch", "1", "--sequence", "8"])
    base = build_student("tiny", layers=30)
    counts = {}
    for name in (nat_step.LORA_16, nat_step.OURS, nat_step.REFERENCE):
        variant = nat_step.build(name, base, random_batch(base, 1, 8), options)
        variant.hidden()  # checks come with the first pass
        operations = Operations()  # type: ignore[no-untyped-call]
        with operations:
            variant.hidden().sum().backward()
        counts[name] = operations.count
    assert counts[nat_step.OURS] <= 1.35 * counts[nat_step.LORA_16]
    assert counts[nat_step.OURS] <= 0.95 * counts[nat_step.REFERENCE]


def test_checkpointing_makes_nothing_twice_and_keeps_nothing_beyond_the_next_pass(
    new_stack: Any, negative_directory: Path, make_batch: Any
) -> None:
    stack, units = nat(new_stack, negative_directory, UnitSettings(8, 12))
    plain = loss_and_gradients(stack, units, make_batch())
    stack.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert all(map(torch.equal, loss_and_gradients(stack, units, make_batch()), plain))
    assert all(unit.given is not None for unit in units.values())
    with torch.no_grad():  # does not look at what is left, which may be outdated
        for parameter in units.parameters():
            parameter.mul_(2)
        stack.eval().hidden(make_batch()["input_ids"], make_batch()["attention_mask"])
    assert all(unit.given is None for unit in units.values())
