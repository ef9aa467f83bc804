"""A pipeline of three stages in a temporary directory, run through the real verb with commands that only copy text."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import dust2gold.run.plan
from dust2gold.commands.run import add_arguments, main
from dust2gold.core.errors import InputError
from dust2gold.run.basis import Installed

STAGES = """
run: runs/t
variables: {greeting: hello there, configs: conf}
stages:
  - name: data
    about: makes the data
    inputs: [source.txt]
    commands:
      - copy source.txt {run}/data/a.txt
      - write {run}/data/b.txt {greeting}
    outputs: ["{run}/data"]
  - name: fit
    about: fits
    needs: [data]
    commands:
      - join --config {configs}/fit.yaml {run}/fit/1.txt {run}/data/a.txt
      - join --config {configs}/fit.yaml {run}/fit/2.txt {run}/fit/1.txt {run}/data/b.txt
      - join --config {configs}/fit.yaml {run}/fit/3.txt {run}/fit/2.txt
    outputs: ["{run}/fit/3.txt"]
  - name: table
    about: tabulates
    needs: [fit]
    commands: [[copy, "{run}/fit/3.txt", "{run}/table.txt"]]
    outputs: ["{run}/table.txt"]
"""


class World:
    """The directory, what has been executed in it, and where a command should go wrong."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.executed: list[list[str]] = []
        self.trouble: dict[str, Callable[[], int | None]] = {}
        self.reported: list[str] = []
        (root / "conf").mkdir()
        (root / "conf" / "fit.yaml").write_text("lr: 1\n")
        (root / "source.txt").write_text("source")
        (root / "pipe.yaml").write_text(STAGES)

    def execute(self, command: list[str]) -> int | None:
        self.executed.append(command)
        for mark, happen in self.trouble.items():
            if any(mark in word for word in command):
                return happen()
        verb, *words = command
        if words[0] == "--config":
            words = [*words[2:], words[1]]
        target, sources = (words[1], words[:1]) if verb == "copy" else (words[0], words[1:])
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        text = words[1] if verb == "write" else "+".join(Path(source).read_text().strip() for source in sources)
        Path(target).write_text(text)
        return None

    def run(self, *flags: str) -> list[str]:
        """Runs the pipeline and returns the target of each command that was executed."""
        self.executed.clear()
        assert self.status(*flags) == 0
        return self.targets

    def status(self, *flags: str) -> int:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return main(parser.parse_args(["--config", "pipe.yaml", *flags]), self.execute)

    def fails(self, *flags: str) -> InputError:
        self.executed.clear()
        with pytest.raises(InputError) as caught:
            self.status(*flags)
        return caught.value

    @property
    def targets(self) -> list[str]:
        """The stage/file each executed command was to write."""
        position = {"write": 1, "copy": 2, "join": 3, "fit": 3}
        return [command[position[command[0]]].removeprefix("runs/t/") for command in self.executed]

    def manifest(self, stage: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.manifest_file(stage).read_text())
        return value

    def manifest_file(self, stage: str) -> Path:
        return self.root / "runs/t/.stages" / f"{stage}.json"

    def edit(self, old: str, new: str) -> None:
        text = (self.root / "pipe.yaml").read_text()
        assert old in text
        (self.root / "pipe.yaml").write_text(text.replace(old, new))

    def forget(self) -> None:
        shutil.rmtree(self.root / "runs")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    # Otherwise a file of ours that is edited while the tests run would make every stage stale.
    install(monkeypatch)
    return World(tmp_path)


def install(monkeypatch: pytest.MonkeyPatch, code: str = "fixed", **libraries: str) -> None:
    """Gives the pipeline another version of our code, the same for all verbs, and other libraries."""

    class Fixed(Installed):
        def code(self, verbs: Iterable[str]) -> dict[str, str]:
            return {"package": code}

        def libraries(self, verbs: Iterable[str]) -> dict[str, str]:
            return {"torch": "2.0", **libraries}

    monkeypatch.setattr(dust2gold.run.plan, "Installed", Fixed)
