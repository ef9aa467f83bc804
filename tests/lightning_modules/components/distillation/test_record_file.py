from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from dust2gold.core.errors import InputError
from lightning_modules.components.distillation.record_file import RecordStore

KEYS = [bytes([n]) * 16 for n in range(6)]


@pytest.fixture
def open_store(tmp_path: Path) -> Callable[[], RecordStore]:
    return lambda: RecordStore(tmp_path / "store", row_bytes=3)


def payload(number: int) -> bytes:
    return bytes([number]) * 3 * (number + 1)


def fill(store: RecordStore, *numbers: int) -> None:
    for number in numbers:
        store.add(KEYS[number], number + 1, payload(number))


def check(store: RecordStore, *numbers: int) -> None:
    assert [number for number, key in enumerate(KEYS) if key in store] == list(numbers)
    assert len(store) == len(numbers)
    for number in numbers:
        rows, found = store.get(KEYS[number])
        assert (rows, bytes(found)) == (number + 1, payload(number))


def test_what_is_added_is_there_now_and_later(open_store: Callable[[], RecordStore]) -> None:
    store = open_store()
    check(store)
    fill(store, 0, 1)
    check(store, 0, 1)
    fill(store, 2)
    check(store, 0, 1, 2)
    store.close()
    again = open_store()
    check(again, 0, 1, 2)
    fill(again, 4)
    check(again, 0, 1, 2, 4)
    with pytest.raises(KeyError):
        again.get(KEYS[5])
    with pytest.raises(ValueError, match="4 bytes for 1 rows of 3"):
        again.add(KEYS[5], 1, b"four")


def test_processes_have_parts_of_their_own_and_see_all(open_store: Callable[[], RecordStore], tmp_path: Path) -> None:
    one, other = open_store(), open_store()
    fill(one, 0)
    fill(other, 1, 2)
    check(one, 0)
    for store in (one, other):
        store.refresh()
        check(store, 0, 1, 2)
    fill(one, 3)
    other.refresh()
    check(other, 0, 1, 2, 3)
    names = {f"part-{number}.{kind}" for number in (0, 1) for kind in ("bin", "idx")}
    assert {p.name for p in (tmp_path / "store").iterdir()} == names
    one.close()
    other.close()
    check(open_store(), 0, 1, 2, 3)


@pytest.mark.parametrize(("rows", "head"), [(n, 0) for n in range(1, 10)] + [(9, n) for n in range(1, 28)])
def test_a_killed_process_leaves_whole_records(
    open_store: Callable[[], RecordStore], tmp_path: Path, rows: int, head: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the third record so many bytes of the rows were written, and then so many of its head."""
    store = open_store()
    fill(store, 0, 1)
    files = [tmp_path / "store" / f"part-0.{kind}" for kind in ("bin", "idx")]
    sizes = [file.stat().st_size for file in files]
    fill(store, 2)
    store.close()
    for file, size, left in zip(files, sizes, (rows, head), strict=True):
        file.write_bytes(file.read_bytes()[: size + left])
    again = open_store()
    said = f"warning: {files[0]}: cut off {rows + head} bytes after the last whole record\n"
    assert capsys.readouterr().err == said
    check(again, 0, 1)
    fill(again, 3, 2)
    again.close()
    check(open_store(), 0, 1, 2, 3)
    assert capsys.readouterr().err == ""


def test_a_head_whose_rows_were_lost_is_no_record(open_store: Callable[[], RecordStore], tmp_path: Path) -> None:
    """A machine that loses power may have kept the one and not the other."""
    store = open_store()
    fill(store, 0, 1, 2)
    store.close()
    file = tmp_path / "store" / "part-0.bin"
    file.write_bytes(file.read_bytes()[:-1])
    again = open_store()
    check(again, 0, 1)
    fill(again, 2)
    again.close()
    check(open_store(), 0, 1, 2)


@pytest.mark.parametrize("place", [0, 15, 16, 20, 24, 27])
def test_a_damaged_head_is_named_and_what_stood_before_is_kept(
    open_store: Callable[[], RecordStore], tmp_path: Path, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store()
    fill(store, 0)
    file = tmp_path / "store" / "part-0.idx"
    size = file.stat().st_size
    fill(store, 1, 2, 3)
    store.close()
    content = bytearray(file.read_bytes())
    content[size + place] ^= 1
    file.write_bytes(content)
    again = open_store()
    check(again, 0)
    assert f"{file}: damaged after 1 records" in capsys.readouterr().err
    fill(again, 1, 4)
    check(again, 0, 1, 4)
    again.close()
    check(open_store(), 0, 1, 4)


def test_damaged_rows_are_told_once_and_made_again(
    open_store: Callable[[], RecordStore], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store()
    fill(store, 0, 1, 2)
    store.close()
    file = tmp_path / "store" / "part-0.bin"
    content = bytearray(file.read_bytes())
    content[3] ^= 1  # the first byte of record 1
    file.write_bytes(content)
    again = open_store()
    assert len(again) == 3
    assert capsys.readouterr().err == ""
    check(again, 0, 2)
    assert capsys.readouterr().err == f"warning: {file}: a damaged record, which is computed again\n"
    with pytest.raises(KeyError):
        again.get(KEYS[1])
    fill(again, 1)
    check(again, 0, 1, 2)
    again.close()
    check(open_store(), 0, 1, 2)
    assert capsys.readouterr().err == ""


def test_opening_reads_no_rows(open_store: Callable[[], RecordStore], tmp_path: Path) -> None:
    store = open_store()
    fill(store, 0, 1)
    store.close()
    again = open_store()
    assert len(again) == 2
    assert [part._map for part in again._parts.values()] == [None]


def test_a_full_disk_is_named(open_store: Callable[[], RecordStore], monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    store = open_store()
    monkeypatch.setattr(store, "_file", Full())
    with pytest.raises(InputError, match="No space left on device"):
        fill(store, 0)
