from pathlib import Path

import pytest

from dust2gold.core.errors import InputError
from dust2gold.core.students import locate_student, public_name


def test_locate_student(tmp_path: Path, tiny_student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate_student(str(tiny_student)) == str(tiny_student)
    assert locate_student("HuggingFaceTB/SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert Path(locate_student("embedded")).parts[-2:] == ("demo", "student")
    monkeypatch.chdir(tiny_student.parent)
    assert locate_student(tiny_student.name) == tiny_student.name  # a relative path without any slash
    monkeypatch.setenv("HOME", str(tiny_student.parent))
    assert locate_student(f"~/{tiny_student.name}") == str(tiny_student)
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("nowhere", "./owner/model", "owner/model", "a/b/c", str(tmp_path / "none"), "~/none"):
        with pytest.raises(InputError, match=r"config\.json is missing"):
            locate_student(name)


def test_public_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models/tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "models")
    for local in (str(tmp_path / "models/tiny"), "tiny", "./tiny", "../models/tiny/", "/gone/tiny"):
        assert public_name(local) == "tiny"
    assert public_name("owner/model") == "owner/model"
    assert public_name("embedded") == "embedded"
