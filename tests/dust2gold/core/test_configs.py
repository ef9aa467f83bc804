"""Where configs are found, and what is said of those that cannot be read."""

from pathlib import Path

import pytest

from dust2gold.core.configs import SHIPPED, config_files, find_config, read_yaml, with_found_configs
from dust2gold.core.errors import InputError


def test_ours_are_found_where_the_user_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/neg.yaml").touch()
    assert find_config("configs/neg.yaml") == Path("configs/neg.yaml")
    assert find_config("configs/prompts/math.yaml") == SHIPPED / "prompts/math.yaml"
    for name in ("configs/absent.yaml", "nat.yaml", "configs", "other/configs/nat.yaml"):
        assert find_config(name) == Path(name)


def test_configs_of_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = "fit -c configs/nat.yaml --config=configs/rank.yaml --config own.yaml --x configs/nat.yaml".split()
    assert config_files(words) == ["configs/nat.yaml", "configs/rank.yaml", "own.yaml"]
    found = [str(SHIPPED / "nat.yaml"), "--config", str(SHIPPED / "rank.yaml")]
    assert with_found_configs(words) == ["fit", "-c", *found, "--config", "own.yaml", "--x", "configs/nat.yaml"]


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [(None, None, "no such file"), (b"a: \xff", None, "not UTF-8"), (b"a: 1\nb: [", 2, "not YAML")],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, line: int | None, problem: str) -> None:
    file = tmp_path / "a.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=problem) as caught:
        read_yaml(file)
    assert (caught.value.file, caught.value.line) == (str(file), line)
