"""The settings of a whole run: what a file such as configs/demo.yaml holds, and `--set NAME=VALUE` overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from dust2gold.core.config_errors import find_option, parse_options
from dust2gold.core.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class RunSettings:
    """The values of a run. A file that names `test_data` reads data of files; otherwise problems are generated."""

    run: str  # the run directory; the report names the run's rows after the directories in it
    student: str = "embedded"  # a Hugging Face directory, a hub name, or `embedded`
    # A directory of sizes laid over configs/: `student.yaml` over every stage that trains or samples the student, and a
    # file named as the stage's config over that one.
    configs: str = "configs/demo"
    seed: int = 0  # of training, batches and samples (`--seeds 0,1,2`); the data have a seed of their own
    samples: int = 4  # NAT's, of each training question
    votes: int = 16  # samples of each test question
    test_limit: int | None = None  # use only the first so many test questions
    train_limit: int | None = None  # sample NAT on only the first so many training questions
    rank_base: str | None = None  # what M_rank reads with; null: the student
    rank_encoder: bool = False  # whether that is an encoder, named as a path
    rank_data: tuple[str, ...] = ("samples/samples.jsonl", "data/solutions.jsonl")  # M_rank's, of the run directory
    # Options added to the first command of a stage, which trains or samples: {nat: --model.lora.r 16}.
    options: dict[str, str] | None = None
    # Rows of the report beside those of the method: baselines, ablations, placebos (tables.py). These two are what a
    # reader asks for first: training on everything, and NAT without the wrong answers.
    rows: tuple[str, ...] = ("mix", "nat-no-negatives")
    # Optimizer steps of every stage that trains a student; of one that stands against two of NAT's halves (M_neg and
    # NAT) twice as many. null: what the stages' configs say.
    steps: int | None = None
    learning_rate: float | None = None  # of every stage that trains a student; null: the stages' configs'
    teacher_data: str | None = None  # the teacher's samples; null: those of the generated problems
    train_format: str | None = None  # a format that `prepare` knows; null: tdg, unless columns are given
    columns: dict[str, str] | None = None  # their columns, {question: problem, gold: answer}; over the format's
    train_source: str = "demo-train"  # the name of the training data
    test_data: str | None = None  # the test set; null: problems are generated
    test_format: str | None = None  # null: math, unless columns are given
    test_columns: dict[str, str] | None = None
    test_source: str = "math"  # the name of the test set
    questions: int | None = None  # prepare only the first so many questions of each of these files
    data_seed: int = 0  # of the generated problems and of the teacher
    train_questions: int = 1500  # generated ones
    test_questions: int = 600
    teacher: str = "slips"  # what the seeded teacher's mistakes are: `slips` of computing, or of `reasoning`
    levels: str = "1,2,3,4,5"  # steps a problem
    notation: float = 0  # share of its answers written as 12.0 or \frac{24}{2}, which string grading calls wrong
    others: str | None = None  # the directory of the paper's other test sets, in their publishers' formats
    other_questions: int | None = None  # so many are generated in other publishers' formats, as further test sets


Settings = TypeVar("Settings", bound="DataclassInstance")


def load_settings(file: str, overrides: Mapping[str, str], kind: type[Settings]) -> Settings:
    """Reads a YAML file of settings, fields of `kind`, and the values of `--set`, as typed, over them.

    Raises:
        InputError: If the file is missing or malformed, or a field is unknown, missing or of another type.
    """
    if "run" in overrides:
        raise InputError("--set run=...: this is the run directory", remedy="use --run DIR")
    return parse_settings(["run", "--config", file, *(f"--{name}={value}" for name, value in overrides.items())], kind)


def parse_settings(words: Sequence[str], kind: type[Settings]) -> Settings:
    """Reads the settings of a command line, verb first, and of the configs it names; errors as `load_settings`."""
    from jsonargparse import ArgumentParser  # which takes a while: `--help` need not wait for it

    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(kind)
    values = parse_options(parser, words).as_dict()
    del values["config"]
    for name in (each.name for each in fields(kind) if "None" not in str(each.type)):
        if values[name] is None:  # which jsonargparse takes for any type
            place, line = find_option([name], words)
            raise InputError("a value was expected, found null", file=place, line=line, field=name, remedy="give one")
    return kind(**values)
