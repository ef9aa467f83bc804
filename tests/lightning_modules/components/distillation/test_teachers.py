from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from datamodules.components.batching.collate import packed
from datamodules.components.table import Example
from dust2gold.core.errors import InputError
from lightning_modules.components.adapters.nat import load_nat
from lightning_modules.components.adapters.stack import AdapterStack, LoraSettings
from lightning_modules.components.distillation.teachers import (
    CachedTeacher,
    CacheSettings,
    OnlineTeacher,
    cached_teacher,
)
from lightning_modules.components.losses.output_head import TeacherTargets
from lightning_modules.components.losses.targets import IGNORE, find_targets

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
MakeCached = Callable[..., CachedTeacher]


@pytest.fixture
def stack(new_stack: Callable[..., AdapterStack], nat_directory: Path) -> AdapterStack:
    """M_NAT, M_neg and a student in training mode."""
    made = new_stack()
    made.units = load_nat(made, nat_directory)
    made.add("student", LoraSettings(dropout=0.5))
    return made.train()


@pytest.fixture
def cached(stack: AdapterStack, tmp_path: Path) -> MakeCached:
    """Makes a cached teacher whose own teacher counts in `asked` how often it is asked."""

    def make(temperature: float = 1.0, calibrated: bool = True, nat: str = "nat", **settings: Any) -> CachedTeacher:
        made = cached_teacher(stack, CacheSettings(**settings), tmp_path / "teacher", temperature, calibrated, nat=nat)
        made.teacher.targets_for = Mock(wraps=made.teacher.targets_for)  # type: ignore[method-assign]
        return made

    return make


def asked(teacher: CachedTeacher) -> int:
    return teacher.teacher.targets_for.call_count  # type: ignore[attr-defined, no-any-return]


def check_close(found: TeacherTargets, expected: TeacherTargets, summary: float, divergence: float) -> None:
    torch.testing.assert_close(found.summary, expected.summary, rtol=summary, atol=summary)
    torch.testing.assert_close(found.divergence, expected.divergence, rtol=divergence, atol=divergence / 100)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 1e-6), ("float16", 1e-3), ("top_k", 1e-3)])
def test_cached_is_online_within_its_storage(
    stack: AdapterStack, cached: MakeCached, make_batch: Any, storage: str, tolerance: float, temperature: float
) -> None:
    batch = make_batch()
    targets = find_targets(batch)
    top_k = 20 if storage == "top_k" else None
    expected = OnlineTeacher(stack, temperature, top_k=top_k).targets_for(batch, targets)
    teacher = cached(temperature, storage=storage, top_k=20)
    first, second = (teacher.targets_for(batch, targets) for _ in range(2))
    assert (asked(teacher), len(teacher.cache)) == (1, 4)
    check_close(first, expected, tolerance, 1e-6)
    check_close(second, first, 0, 0)  # a resumed run must see what the first one saw


def test_a_sample_is_known_by_its_content_wherever_it_stands(
    stack: AdapterStack, cached: MakeCached, make_batch: Any
) -> None:
    batch, teacher = make_batch(), cached(storage="float32")
    teacher.targets_for(batch, find_targets(batch))
    ids = batch["input_ids"].tolist()
    samples = [Example("", "", True, ids[k][:n], prompt=3) for k, n in ((2, 5), (0, 9), (3, 11), (1, 12))]
    moved = packed(samples, pad_id=0, width=23)  # two a row
    targets = find_targets(moved)
    taught = teacher.targets_for(moved, targets)
    assert asked(teacher) == 1
    check_close(taught, OnlineTeacher(stack).targets_for(moved, targets), 1e-5, 1e-4)
    batch["input_ids"][1, 1] += 1  # a token of one prompt
    teacher.targets_for(batch, find_targets(batch))
    assert (asked(teacher), len(teacher.cache)) == (2, 5)
    batch["labels"][0, 3] = IGNORE  # one target fewer
    teacher.targets_for(batch, find_targets(batch))
    assert (asked(teacher), len(teacher.cache)) == (3, 6)


def test_samples_without_targets_and_without_calibration(cached: MakeCached, make_batch: Any) -> None:
    batch, teacher = make_batch(), cached(calibrated=False)
    batch["labels"][1] = IGNORE
    for _ in range(2):
        taught = teacher.targets_for(batch, find_targets(batch))
        assert taught.divergence is None
        assert len(taught.summary) == len(find_targets(batch).tokens)
    batch["labels"][:] = IGNORE
    assert len(teacher.targets_for(batch, find_targets(batch)).summary) == 0
    assert asked(teacher) == 1


def test_it_goes_on_after_a_kill_and_after_damage(
    cached: MakeCached, make_batch: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = make_batch()
    targets = find_targets(batch)
    teacher = cached()
    expected = teacher.targets_for(batch, targets)
    assert not list(tmp_path.rglob("part-*"))
    cached().targets_for(batch, targets)  # killed before it was flushed: asked again
    teacher.flush()
    (file,) = tmp_path.rglob("part-0-*.safetensors")
    for cut, times, message in ((0, 0, "teacher targets of 4 samples are there"), (1, 1, f"{file}: damaged")):
        file.write_bytes(file.read_bytes()[: file.stat().st_size - cut])
        again = cached()
        check_close(again.targets_for(batch, targets), expected, 0, 0)
        assert asked(again) == times
        assert message in capsys.readouterr().err


def test_other_teachers_have_another_cache(
    cached: MakeCached, make_batch: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = make_batch()
    targets = find_targets(batch)
    cached().targets_for(batch, targets)
    for change in ({"temperature": 2.0}, {"nat": "another"}, {"storage": "float32"}):
        teacher = cached(**change)
        assert f"of other teachers ({next(iter(change))}" in capsys.readouterr().err
        assert len(list((tmp_path / "teacher").iterdir())) == 1
        teacher.targets_for(batch, targets)
        assert asked(teacher) == 1
        cached()  # and back
        capsys.readouterr()


def test_a_directory_of_the_users_is_never_tidied(cached: MakeCached, tmp_path: Path) -> None:
    for temperature in (1.0, 2.0):
        cached(temperature, directory=str(tmp_path / "mine"))
    assert len(list((tmp_path / "mine").iterdir())) == 2


@pytest.mark.parametrize("settings", [{"storage": "float8"}, {"top_k": 0}])
def test_bad_settings_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        CacheSettings(**settings)
    assert caught.value.field == f"model.cache.{next(iter(settings))}"
