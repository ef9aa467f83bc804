from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dust2gold.run.fingerprint import ABSENT, ContentHashes, Fingerprint

BASE = Fingerprint((("fit", "a"),), {"c.yaml": "1"}, {"x": "1"}, {"data": "1"}, {"foundation": "1"}, {"torch": "2.1"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"commands": (("fit", "b"),)}, "command 1 changed"),
        ({"commands": (("fit", "a"), ("test",))}, "2 commands instead of 1"),
        ({"configs": {"c.yaml": "2"}}, "config changed: c.yaml"),
        ({"configs": {}}, "config removed: c.yaml"),
        ({"inputs": {"x": "1", "y": "1"}}, "input added: y"),
        ({"needs": {"data": "2"}}, "stage changed: data"),
        ({"code": {"foundation": "2"}}, "code changed: foundation"),
        ({"code": {"foundation": "1", "analyses": "1"}}, "code changed: analyses"),
        ({"libraries": {"torch": "2.2"}}, "library changed: torch (2.1, now 2.2)"),
        ({"libraries": {"torch": "2.1", "peft": "0.1"}}, "library changed: peft (not counted, now 0.1)"),
    ],
)
def test_each_part_changes_the_key_and_is_named(change: dict[str, Any], reason: str) -> None:
    changed = replace(BASE, **change)
    assert changed.key != BASE.key
    assert changed.differences(BASE) == [reason]


def test_words_are_kept_apart() -> None:
    assert replace(BASE, commands=(("fit a",),)).key != BASE.key
    assert replace(BASE, configs={"x": "1"}, inputs={"c.yaml": "1"}).key != BASE.key


def test_equal_fingerprints_have_equal_keys_whatever_the_order() -> None:
    one = replace(BASE, inputs={"x": "1", "y": "2"})
    other = replace(BASE, inputs={"y": "2", "x": "1"})
    assert one.key == other.key
    assert one.differences(other) == []


def test_directory_hash_sees_names_contents_and_depth(tmp_path: Path) -> None:
    place = tmp_path / "d"
    (place / "s").mkdir(parents=True)
    (place / "s" / "f").write_text("1")
    seen = {ContentHashes().of(place)}
    changes: list[Callable[[], object]] = [
        lambda: (place / "s" / "f").write_text("2"),
        lambda: (place / "s" / "f").rename(place / "f"),
        lambda: (place / "g").write_text(""),
    ]
    for change in changes:
        change()
        seen.add(ContentHashes().of(place))
    assert len(seen) == 4
    assert ContentHashes().of(tmp_path / "none") == ABSENT


def test_file_is_read_again_only_if_size_or_time_changed(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("one")
    hashes = ContentHashes()
    first = hashes.of(file)
    status = file.stat()
    file.write_text("two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hashes.of(file) == first
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert hashes.of(file) == ContentHashes().of(file) != first


def test_large_files_are_read_once_over_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dust2gold.run.fingerprint._LARGE", 3)
    file, store = tmp_path / "weights", tmp_path / "stages" / "hashes"
    file.write_text("large")
    first = ContentHashes(store).of(file)
    assert not store.parent.exists()
    store.parent.mkdir()
    assert ContentHashes(store).of(file) == first
    monkeypatch.setattr("dust2gold.run.fingerprint.sha256_of", lambda path: "read again")
    assert ContentHashes(store).of(file) == first
    os.utime(file, ns=(0, 0))
    assert ContentHashes(store).of(file) == "read again"
    store.write_text("[]")
    assert ContentHashes(store).of(file) == "read again"
