"""Where a stage's work waits while the stage is done again: a change that is taken back costs nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from dust2gold.run.manifest import Manifest, read_manifest, write_manifest
from dust2gold.run.stage import Stage


class Shelf:
    """Holds what stages made from other settings, in `<run>/.stale/<stage>/<key>`, until they are done again.

    Every move can be repeated: after a kill half way through, the same call does the rest and takes nothing for
    something else.

    Args:
        run: The run directory.
    """

    def __init__(self, run: Path) -> None:
        self._root = run / ".stale"

    def put(self, stage: Stage, manifest: Manifest | None) -> None:
        """Moves the stage's directories here.

        Args:
            stage: The stage.
            manifest: Of the work in them, finished or not; None if nobody knows what it is.
        """
        place = self._place(stage, None if manifest is None else manifest.fingerprint.key)
        for number, path in enumerate(map(Path, stage.directories)):
            _move(path, place / str(number) / path.name)
        if manifest is not None:
            write_manifest(place / "manifest.json", manifest)

    def kept(self, stage: Stage, key: str) -> Manifest | None:
        """Returns the manifest of the work with this key, finished or interrupted; None if there is none."""
        manifest = read_manifest(self._place(stage, key) / "manifest.json", stage.name)
        fits = manifest is not None and manifest.state != "redo" and manifest.fingerprint.key == key
        return manifest if fits else None

    def take_back(self, stage: Stage, key: str) -> None:
        """Moves the work with this key back into the stage's directories; what nobody knows there comes here."""
        for number, path in enumerate(map(Path, stage.directories)):
            kept = self._place(stage, key) / str(number) / path.name
            if kept.exists():
                _move(path, self._place(stage, None) / str(number) / path.name)
                _move(kept, path)

    def discard(self, stage: Stage, key: str | None = None) -> None:
        """Removes the work with this key, by default all that is kept here of the stage."""
        shutil.rmtree(self._root / stage.name if key is None else self._place(stage, key), ignore_errors=True)

    def _place(self, stage: Stage, key: str | None) -> Path:
        return self._root / stage.name / ("unknown" if key is None else key[:16])


def _move(path: Path, target: Path) -> None:
    """Moves what stands at `path`, if anything does, to the place of what stands at `target`."""
    if not path.exists():
        return
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
