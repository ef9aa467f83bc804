"""Three stages in a temporary directory, run through the real verb with commands that only copy text."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dust2gold.run.plan
from dust2gold.commands.run import add_arguments, main
from dust2gold.core.errors import InputError

STAGES = """
from dataclasses import dataclass

from dust2gold.run.settings import RunSettings
from dust2gold.run.stage import Stage


@dataclass(frozen=True)
class Settings(RunSettings):
    greeting: str = "hello there"


def stages(settings):
    run, join = settings.run, "join --config conf/fit.yaml"
    data = (f"join {run}/data/a.txt source.txt", f"write {run}/data/b.txt '{settings.greeting}'")
    fit = (
        f"{join} {run}/fit/1.txt {run}/data/a.txt",
        f"{join} {run}/fit/2.txt {run}/fit/1.txt {run}/data/b.txt",
        f"{join} {run}/fit/3.txt {run}/fit/2.txt",
    )
    return [
        Stage("data", "makes the data", data, inputs=("source.txt",), outputs=("data",)),
        Stage("fit", "fits", fit, needs=("data",), outputs=("fit/3.txt",)),
        Stage("table", "tabulates", (f"join {run}/table.txt {run}/fit/3.txt",), needs=("fit",), outputs=("table.txt",)),
    ]
"""

DATA = ["data/a.txt", "data/b.txt"]
FIT = ["fit/1.txt", "fit/2.txt", "fit/3.txt"]
ALL = [*DATA, *FIT, "table.txt"]


def raising(error: BaseException) -> Callable[[], int | None]:
    def happen() -> int:
        raise error

    return happen


class World:
    """The directory, what has been executed in it, and where a command should go wrong."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.executed: list[list[str]] = []
        self.trouble: dict[str, Callable[[], int | None]] = {}
        self.reported: list[str] = []
        (root / "conf").mkdir()
        files = {"conf/fit.yaml": "lr: 1\n", "source.txt": "source", "own.py": STAGES, "run.yaml": "run: runs/t\n"}
        for name, text in files.items():
            (root / name).write_text(text)

    def execute(self, command: list[str]) -> int | None:
        verb, target, *sources = command
        if verb == "report":
            self.reported.append(target)
            Path(target, "report.md").touch()
            return None
        self.executed.append(command)
        for mark, happen in self.trouble.items():
            if any(mark in word for word in command):
                return happen()
        if target == "--config":
            config, target, *sources = sources
            sources.append(config)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        text = sources[0] if verb == "write" else "+".join(Path(source).read_text().strip() for source in sources)
        Path(target).write_text(text)
        return None

    def run(self, *flags: str) -> list[str]:
        """Runs the stages and returns the target of each command that was executed."""
        self.executed.clear()
        assert self.status(*flags) == 0
        return self.targets

    def status(self, *flags: str) -> int:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return main(parser.parse_args(["--config", "run.yaml", "--stages", "own.py", *flags]), self.execute)

    def fails(self, *flags: str) -> InputError:
        self.executed.clear()
        with pytest.raises(InputError) as caught:
            self.status(*flags)
        return caught.value

    @property
    def targets(self) -> list[str]:
        """The stage/file each executed command was to write."""
        return [words[3 if words[1] == "--config" else 1].removeprefix("runs/t/") for words in self.executed]

    def record(self, stage: str) -> Any:
        return json.loads(self.record_file(stage).read_text())

    def record_file(self, stage: str) -> Path:
        return self.root / "runs/t/.stages" / f"{stage}.json"

    def edit(self, old: str, new: str) -> None:
        text = (self.root / "own.py").read_text()
        assert old in text
        (self.root / "own.py").write_text(text.replace(old, new))

    def forget(self) -> None:
        shutil.rmtree(self.root / "runs")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    # Otherwise a file of ours that is edited while the tests run would make every stage stale.
    install(monkeypatch)
    return World(tmp_path)


def install(monkeypatch: pytest.MonkeyPatch, code: str = "fixed", torch: str = "2.0") -> None:
    """Gives the stages another version of our code, the same for all verbs, and of a library."""
    facts = {"code in package": code, "version of torch": torch}
    monkeypatch.setattr(dust2gold.run.plan, "facts_of", lambda verbs: facts)
