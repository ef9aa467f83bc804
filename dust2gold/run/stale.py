"""Where a stage's work waits while the stage is done again: a change that is taken back costs nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from dust2gold.run.record import Records, StageRecord, read_record
from dust2gold.run.stage import Stage


class StaleWork:
    """What stages made from other settings, in `<run>/.stale/<stage>/<key>`, until they are done again.

    Every move can be repeated: after a kill half way through, the same call does the rest and takes nothing for
    something else.

    Args:
        run: The run directory.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._records = Records(run)

    def move_aside(self, stage: Stage, record: StageRecord | None) -> None:
        """Moves the stage's directories here.

        Args:
            stage: The stage.
            record: Of the work in them, finished or not; None if nobody knows what it is.
        """
        place = self._place(stage, None if record is None else record.made_from.key)
        for name in stage.directories:
            _move(self._run / name, place / "work" / name)
        if record is not None:
            record.write(place / "record.json")

    def find(self, stage: Stage, key: str) -> StageRecord | None:
        """The record of the work with this key, finished or interrupted; None if there is none."""
        record = read_record(self._place(stage, key) / "record.json", stage.name)
        fits = record is not None and record.state != "redo" and record.made_from.key == key
        return record if fits else None

    def bring_back(self, stage: Stage, key: str) -> None:
        """Moves the work with this key back; what stands in its place goes where it was, and is as safe there."""
        kept, present = self.find(stage, key), self._records.read(stage.name)
        if kept is None:
            return
        if present is not None:
            self.move_aside(stage, present)
            self._records.path(stage.name).unlink()  # killed from here on, `run` finds no record, and goes on below
        for name in stage.directories:
            work = self._place(stage, key) / "work" / name
            if work.exists():
                _move(self._run / name, self._place(stage, None) / "work" / name)
                _move(work, self._run / name)
        self._records.write(kept)
        shutil.rmtree(self._place(stage, key), ignore_errors=True)

    def discard(self, stage: Stage) -> None:
        """Removes all that is kept here of the stage."""
        shutil.rmtree(self._run / ".stale" / stage.name, ignore_errors=True)

    def _place(self, stage: Stage, key: str | None) -> Path:
        return self._run / ".stale" / stage.name / ("unknown" if key is None else key)


def _move(path: Path, target: Path) -> None:
    """Moves what stands at `path`, if anything does, to the place of what stands at `target`."""
    if not path.exists():
        return
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
