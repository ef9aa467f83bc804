from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dust2gold import cli


@pytest.mark.parametrize("words", [["run", "--config", "configs/demo.yaml"], ["fit", "--config", "configs/nat.yaml"]])
def test_away_from_the_configs_the_way_to_them_is_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert f"error: {words[-1]}: no such file" in said
    subprocess.run(said.split("`")[1], shell=True, check=True)
    assert (tmp_path / words[-1]).is_file()
    if words[0] == "run":
        assert cli.main([*words, "--dry-run"]) == 0
        assert "9 of 9 stages would run" in capsys.readouterr().out
