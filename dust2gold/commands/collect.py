"""The command `collect`: a large model's rationales, or its answers to a test. Its options may stand in `--config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dust2gold.collect.collect import collect
from dust2gold.collect.settings import CollectSettings

if TYPE_CHECKING:
    from jsonargparse import Namespace


def parse(words: list[str]) -> Namespace:
    """Reads a command line, verb first, and the configs it names; no option may hold a key."""
    from jsonargparse import ActionYesNo, ArgumentParser

    from dust2gold.core.config_errors import parse_options
    from dust2gold.core.secret_options import check_options

    about = "Sample rationales from a large model behind an OpenAI-compatible endpoint, or test it."
    parser = ArgumentParser(prog="dust2gold collect", description=about, exit_on_error=False)
    config = "a YAML file of these options; of several the last wins"
    parser.add_argument("-c", "--config", action="config", metavar="FILE", help=config)
    parser.add_class_arguments(CollectSettings)
    evaluate = "test the model instead: one greedy sample a question, graded, as a row of the report"
    parser.add_argument("--evaluate", nargs="?", action=ActionYesNo(), help=evaluate)
    options = parse_options(parser, words)
    check_options(options.as_dict())
    instantiated: Namespace = parser.instantiate(options)
    return instantiated


def main(args: Namespace) -> int:
    """Runs `collect`."""
    values: dict[str, Any] = {name: value for name, value in vars(args).items() if name not in ("config", "evaluate")}
    collect(CollectSettings(**values), bool(args.evaluate))
    return 0
