from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_modules.components.sampling import graphs
from lightning_modules.components.sampling.graphs import CapturedSteps, captures
from tests.lightning_modules.components.sampling.recorder import record

CPU = torch.device("cpu")


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Captures on the CPU, too; the pools that captures were given."""
    pools: list[Any] = []

    def kept(step: Callable[[], None], pool: Any) -> Any:
        pools.append(pool)
        return record(step, pool)

    monkeypatch.setattr(graphs, "captures", lambda device: True)
    monkeypatch.setattr(graphs, "capture", kept)
    return pools


def test_a_shape_is_captured_when_it_comes_again(captured: list[Any]) -> None:
    numbers, calls, steps = torch.zeros(3), [0], CapturedSteps(CPU)

    def step() -> None:
        calls[0] += 1
        numbers.add_(numbers.abs() + 1)

    for shape in (1, 1, 1, 2, 1, 2, 2):
        steps.run(shape, step)
    assert numbers.tolist() == [2.0**7 - 1] * 3  # all seven took place, each on what the last one left
    assert (calls[0], captured) == (4, [None, "pool"])
    steps.forget()
    steps.run(1, step)
    steps.run(1, step)
    assert (numbers.tolist(), captured) == ([2.0**9 - 1] * 3, [None, "pool", None])  # the old pool is let go, too


def test_a_capture_that_fails_is_said_once(captured: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    numbers, steps = torch.zeros(1), CapturedSteps(CPU)

    def step() -> None:
        numbers.add_(1 + int(numbers[0]))  # asks the device

    for shape in (1, 1, 1, 2, 2):
        steps.run(shape, step)
    assert (numbers.tolist(), len(captured)) == ([31.0], 1)
    reason = "operation not permitted when stream is capturing"
    assert capsys.readouterr().err == f"sampling without CUDA graphs, which is slower: {reason}\n"


def test_elsewhere_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "capture", None)
    assert (captures(CPU), captures(torch.device("cuda", 1))) == (False, True)
    numbers, steps = [0], CapturedSteps(CPU)
    for _ in range(3):
        steps.run(1, lambda: numbers.append(0))
    assert len(numbers) == 4
