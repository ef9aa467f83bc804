"""Command lines of our verbs whose options may stand in `--config` files: jsonargparse, with messages of two lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from dust2gold.commands.complaints import check_configs, explained
from dust2gold.run.secret_options import check_options


def settings_parser(name: str, about: str, add_arguments: Callable[[Any], None]) -> ArgumentParser:
    """Makes the parser of a verb.

    Args:
        name: The verb.
        about: A line of help.
        add_arguments: Adds the verb's settings.
    """
    parser = ArgumentParser(prog=f"dust2gold {name}", description=about, exit_on_error=False)
    config_help = "a YAML file of these options; of several the last wins"
    parser.add_argument("--config", action="config", metavar="FILE", help=config_help)
    add_arguments(parser)
    return parser


def parse_settings(parser: ArgumentParser, words: list[str]) -> Namespace:
    """Parses a command line and makes its settings.

    Args:
        parser: What `settings_parser` made.
        words: The verb and its options.

    Raises:
        InputError: If an option or a config cannot be used, or holds a key.
    """
    check_configs(words)
    try:
        options = parser.parse_args(words[1:])
        check_options(options.as_dict())
        parsed: Namespace = parser.instantiate(options)
    except ArgumentError as error:
        raise explained(str(error), words) from error
    return parsed
