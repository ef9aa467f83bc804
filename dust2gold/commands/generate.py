"""The command `generate`: word problems and a seeded teacher's samples of them."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from shlex import quote

from dust2gold.demo.generate import TEST_FORMATS, LevelCount, Recipe, generate
from dust2gold.demo.teacher import TEACHERS
from dust2gold.demo.wording import WORDINGS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `generate`."""
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="directory to write into")
    add("--train-questions", type=int, default=Recipe.train_questions, help="default %(default)s; 0: none")
    add("--test-questions", type=int, default=Recipe.test_questions, help="default %(default)s")
    add("--samples", type=int, default=Recipe.samples, help="of each training question, default %(default)s")
    add("--seed", type=int, default=Recipe.seed, help="default %(default)s")
    kinds = "what its mistakes are: of computing or of reasoning, default %(default)s"
    add("--teacher", choices=list(TEACHERS), default=Recipe.teacher, help=kinds)
    add("--levels", type=_levels, default=Recipe.levels, help="steps per problem, default 1,2,3,4,5; in MATH's shares")
    notation = r"share of boxed answers written as 12.0, \frac{24}{2} or 12 apples, %(default)s"
    add("--notation", type=float, default=Recipe.notation, metavar="SHARE", help=notation)
    wording = "words of the stories, default %(default)s"
    add("--wording", choices=list(WORDINGS), default=Recipe.wording, help=wording)
    publisher = "publisher's format of test.jsonl, default %(default)s"
    add("--test-format", choices=list(TEST_FORMATS), default=Recipe.test_format, help=publisher)
    add("--largest", type=int, default=Recipe.largest, help="largest number, default %(default)s")
    add("--factor", type=int, default=Recipe.factor, help="largest factor, default %(default)s")


def main(args: argparse.Namespace) -> int:
    """Runs `generate` and prints the teacher's share of right samples by level."""
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    counts = generate(args.output, recipe)
    if recipe.train_questions:
        print(_table(counts))
    held_out = f"{recipe.test_questions} held-out questions in test.jsonl"
    print(f"{args.output}: {'train.jsonl, and ' if recipe.train_questions else ''}{held_out}")
    if recipe.train_questions:
        print(f"grade them: dust2gold prepare --input {quote(f'{args.output}/train.jsonl')} --format tdg --output DIR")
    return 0


def _levels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers such as 1,2,3 were expected, found {text!r}") from None


def _table(counts: dict[int, LevelCount]) -> str:
    every = LevelCount(*(sum(getattr(count, field.name) for count in counts.values()) for field in fields(LevelCount)))
    rows = [*((f"Level {level}", count) for level, count in counts.items()), ("all", every)]
    lines = [f"{'teacher':<10}{'questions':>10}{'samples':>10}{'right':>9}"]
    lines += [f"{name:<10}{c.questions:>10,}{c.samples:>10,}{c.right / max(1, c.samples):>9.1%}" for name, c in rows]
    return "\n".join(lines)
