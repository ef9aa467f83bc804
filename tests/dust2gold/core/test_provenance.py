import os
from pathlib import Path
from typing import Any

import pytest

from dust2gold.core import provenance
from dust2gold.core.provenance import Provenance, content_hash, version_of


def made(settings: dict[str, Any], **options: Any) -> Provenance:
    return Provenance.of(settings, libraries=(), **options)


def test_a_path_counts_by_its_contents(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("text")
    other.write_text("text")
    first = made({"data": {"train": str(one)}})
    assert made({"data": {"train": other}}) == made({"data": {"train": str(other)}}) == first
    other.write_text("changed")
    changed = made({"data": {"train": str(other)}})
    assert changed.key != first.key
    assert changed.differences(first.facts) == ["data.train"]


def test_a_directory_counts_by_its_names_and_files(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_text("1")
    first = content_hash(tmp_path / "d")
    (tmp_path / "d").rename(tmp_path / "e")
    assert content_hash(tmp_path / "e") == first
    (tmp_path / "e/a").rename(tmp_path / "e/b")
    assert content_hash(tmp_path / "e") != first
    assert content_hash(tmp_path / "nothing") is None


def test_a_large_file_counts_by_blocks_over_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_WHOLE", 1 << 10)
    monkeypatch.setattr(provenance, "_BLOCK", 64)
    file = tmp_path / "weights"
    file.write_bytes(bytes(1 << 16))
    first = content_hash(file)
    file.write_bytes(bytes((1 << 16) - 1) + b"x")
    last = content_hash(file)
    file.write_bytes(bytes((1 << 16) + 1))
    assert len({first, last, content_hash(file)}) == 3


def test_settings_are_named_as_on_the_command_line_and_may_be_left_out() -> None:
    settings = {"model": {"class_path": "M", "init_args": {"lora": {"r": 8}, "cache": {"r": "a"}}}, "seed": 0}
    assert list(made(settings).facts) == ["model.class_path", "model.lora.r", "model.cache.r", "seed"]
    assert list(made(settings, without=("seed", "model.cache.r")).facts) == ["model.class_path", "model.lora.r"]


def test_differences_name_what_is_new_and_what_is_gone() -> None:
    long_text = "x" * 10_000  # no path
    assert made({"a": 1, "b": 2, "t": long_text}).differences(made({"b": 3, "c": 4, "t": long_text}).facts) == [*"abc"]


def test_the_file_of_a_users_own_class_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"model": {"class_path": "own_loss.Focal"}, "other": {"class_path": "torch.optim.AdamW"}}
    keys = []
    for power in (2, 3):
        (tmp_path / "own_loss.py").write_text(f"class Focal:\n    power = {power}\n" + "\n" * power)
        keys.append(made(settings).key)
    assert keys[0] != keys[1]
    assert [name for name in made(settings).facts if name.startswith("code of ")] == ["code of own_loss"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "a").chmod(0)
    with pytest.raises(PermissionError):
        made({"data": str(tmp_path / "a")})


def test_versions_count_without_the_build() -> None:
    assert Provenance.of({}).facts["version of torch"] == version_of("torch").partition("+")[0]
    assert version_of("no-such-library") == "none"
