import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dust2gold.core.errors import InputError
from lightning_modules.components.distillation.cache import Columns, SampleCache

KEYS = [bytes([n]) * 16 for n in range(6)]
LAYOUT = {"numbers": torch.empty(0, 3, dtype=torch.float16), "tokens": torch.empty(0, dtype=torch.uint16)}
OpenCache = Callable[..., SampleCache]


@pytest.fixture
def open_cache(tmp_path: Path) -> OpenCache:
    return lambda **more: SampleCache(tmp_path / "cache", LAYOUT, **more)


def sample(number: int) -> Columns:
    """Of as many rows as its number says: one of them has none."""
    numbers = torch.randn(number, 3, generator=torch.Generator().manual_seed(number)).half()
    return {"numbers": numbers, "tokens": torch.arange(number).to(torch.uint16)}


def fill(cache: SampleCache, *numbers: int) -> None:
    for number in numbers:
        cache.add(KEYS[number], sample(number))


def check(cache: SampleCache, *numbers: int) -> None:
    found = {number: columns for number, key in enumerate(KEYS) if (columns := cache.get(key)) is not None}
    assert list(found) == list(numbers)
    assert len(cache) == len(numbers)
    for number, columns in found.items():
        assert columns.keys() == LAYOUT.keys()
        assert all(torch.equal(column, sample(number)[name]) for name, column in columns.items())
        assert all(column.dtype == LAYOUT[name].dtype for name, column in columns.items())


def test_what_is_added_is_there_now_and_when_flushed_later(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache()
    fill(cache, 0, 1)
    check(cache, 0, 1)
    check(open_cache())
    cache.flush()
    fill(cache, 3)
    check(cache, 0, 1, 3)
    check(open_cache(), 0, 1)
    cache.flush()
    cache.flush()  # nothing
    check(cache, 0, 1, 3)
    check(open_cache(), 0, 1, 3)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_it_flushes_by_itself(open_cache: OpenCache) -> None:
    fill(open_cache(flush_bytes=8 * 7), 1, 2, 3, 4)  # 8 bytes a row
    check(open_cache(), 1, 2, 3, 4)
    fill(open_cache(flush_bytes=8 * 7), 5)
    check(open_cache(), 1, 2, 3, 4)


def test_processes_write_files_of_their_own_and_see_all(open_cache: OpenCache, tmp_path: Path) -> None:
    one, other = open_cache(rank=0), open_cache(rank=1)
    fill(one, 0)
    fill(other, 1, 2)
    for cache in (one, other):
        cache.flush()
    check(one, 0)
    for cache in (one, other):
        cache.refresh()
        check(cache, 0, 1, 2)
    assert [file.name[:7] for file in sorted((tmp_path / "cache").iterdir())] == ["part-0-", "part-1-"]


def bits(number: int) -> bytes:
    """A sample's numbers as they stand in a file."""
    return sample(number)["numbers"].numpy().tobytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:-1],
        lambda content: content[:8] + b"?" + content[9:],
        lambda content: content.replace(b'"numbers"', b'"numbens"'),
        lambda content: content.replace(b'"F16","shape":[6,3]', b'"F16","shape":[3,6]'),
        lambda content: content.replace(bits(2), bits(2)[:-1] + b"?"),
    ],
)
def test_a_damaged_file_is_named_and_removed(
    open_cache: OpenCache, tmp_path: Path, damage: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    for rank, numbers in enumerate([[4], [1, 2, 3]]):
        fill(cache := open_cache(rank=rank), *numbers)
        cache.flush()
    (file,) = (tmp_path / "cache").glob("part-1-*")
    content = file.read_bytes()
    file.write_bytes(damage(content))
    assert file.read_bytes() != content
    again = open_cache()
    found = {number for number, key in enumerate(KEYS) if again.get(key) is not None}
    assert {4} <= found < {1, 2, 3, 4}
    check(again, 4)
    assert f"warning: {file}: damaged (" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1
    fill(again, 1, 2, 3)
    again.flush()
    check(open_cache(), 1, 2, 3, 4)
    assert capsys.readouterr().err == ""


def test_a_file_that_vanishes_is_passed_over(open_cache: OpenCache, tmp_path: Path) -> None:
    """Another process may find it damaged first."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "part-0-gone.safetensors").symlink_to(tmp_path / "nowhere")
    check(open_cache())


def test_what_a_kill_left_half_written_is_removed_and_what_is_being_written_stays(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    for name in ("dead", "live"):
        (tmp_path / f"cache/.part-0-{name}.safetensors.abcdefgh.part").mkdir(parents=True)
        (tmp_path / f"cache/.part-0-{name}.safetensors.abcdefgh.part/lock").touch()
    with (tmp_path / "cache/.part-0-live.safetensors.abcdefgh.part/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        check(open_cache())
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [".part-0-live.safetensors.abcdefgh.part"]


def test_a_place_that_cannot_be_written_is_named(open_cache: OpenCache, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    cache = open_cache()
    fill(cache, 1)
    with pytest.raises(InputError, match="cannot write"):
        cache.flush()
