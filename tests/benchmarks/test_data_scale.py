from __future__ import annotations

import pytest

from benchmarks import data_scale
from benchmarks.harness import arguments


@pytest.mark.slow
def test_it_measures_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    data_scale.main(arguments("").parse_args(["--quick"]))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ") and "---" not in line] == [
        "one process",
        "encode, no table",
        "encode, make the table",
        "read the table",
    ]
