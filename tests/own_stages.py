"""A file for `run --stages` with the stages of a test."""

from pathlib import Path

from dust2gold.run.stage import Stage

_FILE = """\
from dataclasses import replace

from dust2gold.run.stage import Stage

STAGES = {stages}


def stages(settings):
    return [replace(s, commands=tuple(c.replace("{{run}}", settings.run) for c in s.commands)) for s in STAGES]
"""


def write_stages(file: Path, *stages: Stage) -> list[str]:
    """Writes the file, with `{run}` in commands for the run directory, and settings beside it; returns the options."""
    file.write_text(_FILE.format(stages=list(stages)), encoding="utf-8", errors="surrogateescape")
    settings = file.with_suffix(".yaml")
    settings.write_text("run: run\n", encoding="utf-8")
    return ["--config", str(settings), "--stages", str(file)]
