"""The command `export`: a trained stage as a stock adapter or a merged model."""

from __future__ import annotations

import argparse
from pathlib import Path

from dust2gold.interchange.export import export


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `export`."""
    parser.description = "Write a trained stage as a stock adapter or, with --merge, a whole Hugging Face model."
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run directory, as runs/demo")
    parser.add_argument("--stage", default="nce", help="the stage to export: nce (default), cot-kd, nat, …")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory to write; must not exist")
    parser.add_argument("--merge", action="store_true", help="fold the adapter into the base weights")
    where = "directory or hub name of the base (default: where the stage was trained from)"
    parser.add_argument("--student", metavar="NAME", help=where)
    dtypes, help_ = ("float32", "bfloat16", "float16"), "of a merged model's weights (default %(default)s)"
    parser.add_argument("--dtype", default="float32", choices=dtypes, help=help_)


def main(args: argparse.Namespace) -> int:
    """Runs `export` and says how to load what it wrote."""
    export(args.run, args.stage, args.output, args.merge, args.dtype, args.student)
    print(f"{args.output}: {args.stage} of {args.run}; its README.md says how to load and serve it")
    return 0
