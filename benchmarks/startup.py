"""How long commands take before they do anything, against importing what any training needs.

    python -m benchmarks.startup

Each is a process of its own, started anew every time; the file cache is warm after the first round.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Target, alternate, arguments, begin, finish, ratio, show_timings

IMPORTS, HELP = "import torch, lightning", "--help"
COMMANDS = (
    HELP,
    "prepare --help",
    "run --config configs/demo.yaml --dry-run",
    "fit --help",
    "fit --config configs/nat.yaml --print_config",
)
REPOSITORY = Path(__file__).parents[1]


def started(*words: str) -> Callable[[], object]:
    """A run of Python with these words."""
    return lambda: subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=True, capture_output=True)


def main(options: argparse.Namespace) -> None:
    """Measures and prints."""
    begin(options)
    variants = {IMPORTS: started("-c", IMPORTS), **{name: started("cli.py", *name.split()) for name in COMMANDS}}
    timings = alternate(variants, options.rounds or (1 if options.quick else 7), warmup=1)
    show_timings(timings, IMPORTS)
    finish([Target(f"{HELP} over {IMPORTS}", ratio(timings, HELP, IMPORTS), 1.3)])


if __name__ == "__main__":
    main(arguments("Measures how long commands take to start.").parse_args())
