"""The verb `collect`: asks a large model our questions; see dust2gold/collect/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dust2gold.collect.collect import collect
from dust2gold.collect.settings import CollectSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the settings to a parser that reads them from `--config` too."""
    from jsonargparse import ActionYesNo

    parser.add_class_arguments(CollectSettings)
    parser.add_argument(
        "--evaluate",
        nargs="?",
        action=ActionYesNo(),
        help="test the model instead: one greedy sample a question, graded, as a row of the report",
    )


def main(args: Namespace) -> int:
    """Runs `collect` with what `add_arguments` parsed and instantiated; returns the exit code.

    Raises:
        InputError: If something given cannot be used, or not all is there in the end.
    """
    values: dict[str, Any] = dict(vars(args))
    evaluate = bool(values.pop("evaluate"))
    values.pop("config", None)
    collect(CollectSettings(**values), evaluate)
    return 0
