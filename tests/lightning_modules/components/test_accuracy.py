import json
import math
from pathlib import Path

import pytest
import torch

from lightning_modules.components.accuracy import GroupedAccuracy
from tests.together import together

ALGEBRA = {"subject": "Algebra", "level": "Level 1"}
GEOMETRY = {"subject": "Geometry", "level": "Level 2"}
BARE = {"subject": "", "level": ""}


def check(values: dict[str, float], expected: dict[str, tuple[float, int]]) -> None:
    """Compares with the accuracy and the count of each group."""
    accuracies = {f"accuracy{name}": accuracy for name, (accuracy, _) in expected.items()}
    assert values == pytest.approx(accuracies | {f"count{name}": count for name, (_, count) in expected.items()})


def floats(metric: GroupedAccuracy) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def test_accuracy_overall_and_by_group() -> None:
    metric = GroupedAccuracy()
    metric.update(torch.tensor([1.0, 0.5]), [ALGEBRA, GEOMETRY])
    metric.update([0.0, 1 / 3], [ALGEBRA, BARE])
    groups = {"/subject/Algebra": (0.5, 2), "/level/Level 1": (0.5, 2)}
    groups |= {"/subject/Geometry": (0.5, 1), "/level/Level 2": (0.5, 1)}
    check(floats(metric), {"": ((1.5 + 1 / 3) / 4, 4), **groups})
    metric.reset()
    metric.update([1.0], [GEOMETRY])
    check(floats(metric), {"": (1, 1), "/subject/Geometry": (1, 1), "/level/Level 2": (1, 1)})


def test_nothing_counted_is_no_accuracy() -> None:
    metric = GroupedAccuracy()
    metric.update([], [])
    values = floats(metric)
    assert math.isnan(values.pop("accuracy"))
    assert values == {"count": 0}


def test_questions_and_groups_must_match() -> None:
    with pytest.raises(ValueError, match="shorter"):
        GroupedAccuracy().update([1.0, 0.0], [ALGEBRA])


def test_two_processes_with_different_groups(tmp_path: Path) -> None:
    batches = [[([1.0, 0.0, 0.5], "Algebra Algebra Geometry")], [([1.0], "Probability"), ([0.0], "Algebra")]]

    def work() -> None:
        torch.distributed.init_process_group("gloo")
        rank, metric = torch.distributed.get_rank(), GroupedAccuracy()
        for correct, subjects in batches[rank]:
            metric.update(correct, [{"subject": subject} for subject in subjects.split()])
        (tmp_path / f"{rank}.json").write_text(json.dumps(floats(metric)))
        torch.distributed.destroy_process_group()

    assert together(work, tmp_path) == [0, 0]
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert both[0] == both[1]
    groups = {"/subject/Algebra": (1 / 3, 3), "/subject/Geometry": (0.5, 1), "/subject/Probability": (1.0, 1)}
    check(both[0], {"": (0.5, 5), **groups})
