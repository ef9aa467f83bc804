import json
import time
import weakref
from functools import partial

import pytest
import torch

from benchmarks import harness
from benchmarks.harness import MIB, Target, Timing, alternate, host_waits, peak_memory, ratio, saved_activations


def test_variants_alternate_after_the_warm_up() -> None:
    order: list[str] = []

    def run(name: str) -> None:
        order.append(name)
        time.sleep(0.02 if name == "b" else 0.002)

    timings = alternate({name: partial(run, name) for name in "abc"}, rounds=3, warmup=2)
    assert "".join(order) == "abc" * 5
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3, "c": 3}
    assert ratio(timings, "b", "a") > 3
    assert timings["b"].median > 0.019


def test_ratios_are_taken_round_by_round(capsys: pytest.CaptureFixture[str]) -> None:
    load = {"a": Timing((1.0, 2.0, 8.0)), "b": Timing((2.0, 4.0, 16.0))}  # the machine slows down
    assert ratio(load, "b", "a") == 2.0
    assert Timing((1.0, 2.0, 3.0)).spread == 0.5
    harness.show_timings(load, "a")
    assert capsys.readouterr().out.splitlines()[-1].split()[1::6] == ["b", "2.000"]


def test_saved_activations_count_each_storage_once_and_no_parameters() -> None:
    linear = torch.nn.Linear(16, 32)
    x = torch.randn(8, 16, requires_grad=True)

    def forward() -> torch.Tensor:
        hidden = linear(x)  # keeps x, and the weight
        return torch.sum(hidden.exp() + linear(x).square())  # keep exp's result, the second hidden

    assert saved_activations(forward, linear.parameters()) == 4 * (8 * 16 + 2 * 8 * 32)
    with torch.no_grad():
        assert saved_activations(forward, []) == 0


def test_peak_memory_counts_what_is_held_at_a_time() -> None:
    assert MIB <= peak_memory(lambda: [torch.zeros(MIB // 4).sum() for _ in range(3)]) < 1.1 * MIB
    assert 3 * MIB <= peak_memory(lambda: [torch.zeros(MIB // 4) for _ in range(3)]) < 3.1 * MIB


def test_the_last_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    harness.begin(harness.arguments("").parse_args(["--quick", "--threads", str(torch.get_num_threads())]))
    harness.show(["variant", "ms"], [["a", 1], ["longer", 22]])
    targets = [Target("time", 1.2, 1.1), Target("share", 0.98, 0.97, at_least=True), Target("none", float("nan"), 1)]
    harness.finish(targets, n=3)
    lines = capsys.readouterr().out.splitlines()
    assert f"{torch.get_num_threads()} threads, torch {torch.__version__}" in lines[0]
    assert lines[1:3] == ["| variant | ms |", "| ------- | -- |"]
    expected = {
        "time": {"value": 1.2, "target": 1.1, "met": False},
        "share": {"value": 0.98, "target": 0.97, "met": True},
        "none": {"value": None, "target": 1, "met": False},
    }
    assert json.loads(lines[-1]) == {"targets": expected, "n": 3}


def test_a_part_without_memory_ends_alone_and_frees_what_it_held(capsys: pytest.CaptureFixture[str]) -> None:
    held = []

    def run() -> None:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with harness.guarded("first", "cpu"):
        run()
    assert held[0]() is None
    assert capsys.readouterr().out == "first: out of memory\n"
    with pytest.raises(ZeroDivisionError), harness.guarded("second", "cpu"):
        _ = 1 / 0


def test_on_a_gpu_each_variant_has_the_memory_to_itself() -> None:
    assert harness.groups(["a", "b"], "cuda:0") == [["a"], ["b"]]
    assert harness.groups(["a", "b"], "cpu") == [["a", "b"]]
    assert ratio({"a": Timing((1.0,))}, "a", "b") != ratio({"a": Timing((1.0,))}, "a", "b")  # NaN: not measured


def test_what_would_wait_for_a_gpu_is_counted() -> None:
    values = torch.arange(4.0)
    with host_waits() as found:
        values.add(1)[torch.tensor([0, 2])] *= 2
    assert not found
    waiting = (
        lambda: values[values > 1],
        lambda: int(values[0]),
        lambda: bool(values[0]),
        lambda: values.tolist(),
        values.nonzero,
    )
    for read in waiting:
        with host_waits() as found:
            read()
        assert found == {__name__: 1}
    values.tolist()
    assert found == {__name__: 1}, "outside it nothing is"
