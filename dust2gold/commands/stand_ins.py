"""What stands in, when a run is checked, for what its stages are still to make.

For an adapter its shape, written without weights when the stage that trains it was set up. For a file of records one of
the same name that the data stages have made (D_pos for D_pos with the student's own samples), else D_pos and D_neg.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dust2gold.run.plan import Plan
from dust2gold.run.stage import Stage
from lightning_modules.components.adapters.manifest import add_facts
from lightning_modules.trainable import TrainableModule

_SEVERAL = ("train", "validation")
_FILES = (*_SEVERAL, "questions", "predict")
"""Options of DataModules that name files for which others can stand in; the first take several."""
_ADAPTERS = ("adapter", "adapter-last")
"""What `fit` leaves in its directory."""


class NotMadeError(Exception):
    """A command needs an adapter that will not be made, as a `fit` before it has a problem."""


class StandIns:
    """The stand-ins, by the paths they stand for; `data` are the stages that have made data.

    Adapters without weights, and encoded files, which all commands share, go into `room`.
    """

    def __init__(self, plan: Plan, data: Sequence[Stage], room: Path) -> None:
        self._run, self._room = plan.run, room
        self._made = [plan.run / output for stage in data for output in stage.outputs]
        self._to_be_made = [plan.run / output for stage in plan.stages if stage not in data for output in stage.outputs]
        self._broken: list[Path] = []
        self._news: list[str] = []

    def news(self) -> list[str]:
        """What stood for what since this was asked last."""
        news, self._news = self._news, []
        return news

    @property
    def in_use(self) -> bool:
        """Whether a file stood for another since `news` was asked."""
        return bool(self._news)

    def by_own_names(self, text: str) -> str:
        """A text in which stand-ins are called what they stand for."""
        return text.replace(str(self._room), "")

    def breaks(self, stage: Stage) -> None:
        """Notes that a `fit` of a stage has a problem, so that what misses its adapter is not blamed."""
        self._broken += [(self._run / name).resolve() for name in stage.directories]

    def write_adapter(self, module: TrainableModule, root: Path, encoding: dict[str, Any]) -> None:
        """Writes the adapter that a stage on the meta device will leave in its directory, and what it notes."""
        for name in _ADAPTERS:
            directory = self._place(root / name)
            shutil.rmtree(directory, ignore_errors=True)  # of another `fit` in the same directory
            directory.mkdir(parents=True)
            module.write_adapter(directory)  # every trainable stage has it
            add_facts(directory, encoding)

    def fill(self, config: Any, stage: Stage) -> bool:
        """Puts stand-ins into the arguments of a stage's command; False if there are none for its data.

        Raises:
            NotMadeError: If an adapter it needs will not be made.
        """
        for key, value in list((config.get("model.init_args") or {}).items()):
            if isinstance(value, str):
                config.model.init_args[key] = self._adapter(value)
        own = [self._run / name for name in stage.directories]
        options, complete = config.get("data.init_args") or {}, True
        for key, value in list(options.items()):
            names = value if isinstance(value, list) else [value]
            missing = [name for name in names if isinstance(name, str) and self._is_missing(Path(name), own)]
            if missing and key in _FILES:
                most = None if key in _SEVERAL else 1
                others = {name: self._others(name)[:most] for name in missing}
                found = [each for name in names for each in others.get(name, [name])]
                options[key] = found if key in _SEVERAL else "".join(found)
                self._news += [f"still to be made: {n}; read instead: {', '.join(others[n])}" for n in missing]
            complete = complete and (not missing or (key in _FILES and all(others.values())))
        if options.get("encoded", "") is None:
            options["encoded"] = str(self._room / "encoded")
        return complete

    def _place(self, path: Path) -> Path:
        return self._room / path.resolve().relative_to("/")

    def _adapter(self, name: str) -> str:
        path = Path(name).resolve()
        if (place := self._place(path)).is_dir():
            return str(place)
        if any(path.is_relative_to(directory) for directory in self._broken):
            raise NotMadeError(f"it needs {name}, which is not made: a `fit` before it has a problem")
        return name

    def _is_missing(self, path: Path, own: Sequence[Path]) -> bool:
        """Whether there is no such file yet and a stage is to make it, or the command's own, with these directories."""
        makers = [place.resolve() for place in (*self._to_be_made, *own)]
        return not path.exists() and any(path.resolve().is_relative_to(place) for place in makers)

    def _others(self, name: str) -> list[str]:
        """The files that stand for one; none if the data stages have made nothing like it."""
        same, both = self._largest(Path(name).name), ("positive.jsonl", "negative.jsonl")
        return [str(path) for path in ([same] if same else map(self._largest, both)) if path is not None]

    def _largest(self, name: str) -> Path | None:
        """The largest file of a name that the data stages have made."""
        found = [path for place in self._made for path in (place, *place.rglob(name)) if path.name == name]
        return max(found, key=lambda path: path.stat().st_size, default=None)
