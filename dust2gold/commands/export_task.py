"""The command `export-task`: a test set as a task of lm-evaluation-harness."""

from __future__ import annotations

import argparse
from pathlib import Path

from dust2gold.interchange.harness import export_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `export-task`."""
    parser.add_argument("--questions", type=Path, required=True, metavar="FILE", help="a questions.jsonl")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory to write; must not exist")
    parser.add_argument("--name", default="dust2gold", help="of the task (default %(default)s)")
    help_ = "plain (default), chat, or a file: as --data.prompt in training"
    parser.add_argument("--prompt", default="plain", metavar="plain|chat|FILE", help=help_)
    cap = "cap on an answer (default %(default)s)"
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help=cap)


def main(args: argparse.Namespace) -> int:
    """Runs `export-task` and says how to use what it wrote."""
    export_task(args.questions, args.output, args.name, args.max_new_tokens, args.prompt)
    template = " --apply_chat_template" if args.prompt == "chat" else ""
    model = "--model hf --model_args pretrained=MODEL"
    print(f"lm_eval {model} --tasks {args.name} --include_path {args.output}{template}")
    return 0
