"""The command `collect`: a large model's rationales, or its answers to a test. Its options may stand in `--config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dust2gold.collect.collect import collect
from dust2gold.collect.settings import CollectSettings

if TYPE_CHECKING:
    from jsonargparse import Namespace


def parse(words: list[str]) -> Namespace:
    """Reads a command line and the configs it names.

    Args:
        words: The command and its options.

    Raises:
        InputError: If an option or a config cannot be used, or holds a key.
    """
    from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser

    from dust2gold.commands.config_errors import explained, readable_configs
    from dust2gold.core.secret_options import check_options

    parser = ArgumentParser(
        prog="dust2gold collect",
        description="Sample rationales from a large model behind an OpenAI-compatible endpoint, or test it.",
        exit_on_error=False,
    )
    parser.add_argument(
        "-c", "--config", action="config", metavar="FILE", help="a YAML file of these options; of several the last wins"
    )
    parser.add_class_arguments(CollectSettings)
    parser.add_argument(
        "--evaluate",
        nargs="?",
        action=ActionYesNo(),
        help="test the model instead: one greedy sample a question, graded, as a row of the report",
    )
    words = readable_configs(words)
    try:
        options = parser.parse_args(words[1:])
        check_options(options.as_dict())
        parsed: Namespace = parser.instantiate(options)
    except ArgumentError as error:
        raise explained(str(error), words) from error
    return parsed


def main(args: Namespace) -> int:
    """Runs `collect`.

    Raises:
        InputError: If something given cannot be used, or not all is there in the end.
    """
    values: dict[str, Any] = dict(vars(args))
    evaluate = bool(values.pop("evaluate"))
    values.pop("config", None)
    collect(CollectSettings(**values), evaluate)
    return 0
