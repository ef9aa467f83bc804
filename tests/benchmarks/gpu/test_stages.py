import shlex
import time
from pathlib import Path

import pytest

from benchmarks.gpu import stages
from benchmarks.gpu.stages import Line
from benchmarks.gpu.step import Step
from tests.benchmarks.gpu.test_step import figures
from tests.commands import parse

pytestmark = pytest.mark.filterwarnings("ignore")


def test_all_command_lines_are_understood(tmp_path: Path) -> None:
    lines = stages.command_lines(Step("stages", tmp_path, time.time(), dry=True), tmp_path / "a b")
    for name, line in lines.items():
        assert set(line.needs) < set(lines), name
        parse(shlex.split(line.words))


def test_each_line_is_told_of_as_it_ends_and_only_what_can_begin_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli.py").write_text("import sys, time\ntime.sleep(float(sys.argv[2]))\nsys.exit(int(sys.argv[1]))\n")
    monkeypatch.chdir(tmp_path)
    lines = {
        "stopped": Line("143 0", status=143),
        "after": Line("0 0", ("stopped",)),
        "wrong": Line("1 0"),
        "without": Line("0 0", ("wrong",)),
        "endless": Line("0 60"),
    }
    step = Step("stages", tmp_path, time.time() + 3, dry=True)
    assert dict(stages.run(step, lines, 2)) == {"stopped": True, "after": True, "wrong": False}
    rows = {str(row["figure"]): row for row in figures(tmp_path)}
    assert "stopped by the time limit" in str(rows["endless"]["note"])
    assert rows["not begun"]["value"] == "without"
