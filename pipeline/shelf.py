"""Where a stage's finished work waits while the stage is done again: a change that is taken back costs nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.manifest import Manifest, read_manifest, write_manifest
from pipeline.stage import Stage


class Shelf:
    """Holds the last finished work of each stage that is being redone, in `<run>/.stale/<stage>`.

    Args:
        run: The run directory.
    """

    def __init__(self, run: Path) -> None:
        self._root = run / ".stale"

    def put(self, stage: Stage, manifest: Manifest | None) -> None:
        """Moves the stage's directories here, in place of what was kept before.

        Args:
            stage: The stage.
            manifest: Of the work in them; None if nobody knows what it is.
        """
        self.discard(stage)
        place = self._root / stage.name
        for number, path in enumerate(map(Path, stage.directories)):
            if path.exists():
                (place / str(number)).mkdir(parents=True)
                path.rename(place / str(number) / path.name)
        if manifest is not None:
            write_manifest(place / "manifest.json", manifest)

    def kept(self, stage: Stage) -> Manifest | None:
        """Returns the manifest of the finished work that is kept here, None if there is none."""
        manifest = read_manifest(self._root / stage.name / "manifest.json", stage.name)
        return manifest if manifest is not None and manifest.state == "done" else None

    def take_back(self, stage: Stage) -> None:
        """Moves what is kept here back into the stage's directories, in place of what they hold."""
        clear(stage)
        for number, path in enumerate(map(Path, stage.directories)):
            kept = self._root / stage.name / str(number) / path.name
            if kept.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                kept.rename(path)

    def discard(self, stage: Stage) -> None:
        """Removes what is kept here."""
        shutil.rmtree(self._root / stage.name, ignore_errors=True)


def clear(stage: Stage) -> None:
    """Removes the stage's directories."""
    for path in map(Path, stage.directories):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
