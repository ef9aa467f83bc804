"""What encoding a training file costs a process, with and without the table that `data.encoded` keeps.

    python -m benchmarks.data_scale                    # 100,000 samples of about 330 tokens
    python -m benchmarks.data_scale --rows 1000000

Each row is measured in a process of its own: seconds, and how far its resident memory rose, both per sample.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import arguments, begin, show
from datamodules.components.encoding.tokenization import load_tokenizer
from datamodules.components.records.records import Rationale, write_rationales
from datamodules.rationales import RationaleDataModule

WORDS = "the a sum of and so we find that number is apples total each then multiply by two adding gives"


def samples(rows: int) -> Iterator[Rationale]:
    """Right rationales of a length like MATH's, four to a question."""
    rng, words = random.Random(0), WORDS.split()
    question = ""
    for number in range(rows):
        if number % 4 == 0:
            question = " ".join(rng.choices(words, k=35))
        name, gold = f"q-{number // 4:08d}", str(number % 97)
        text = " ".join(rng.choices(words, k=rng.randint(40, 140))) + f" \\boxed{{{gold}}}"
        about = ("Algebra", "Level 3", "synthetic", "teacher")
        yield Rationale(f"{name}/{number % 4}", name, question, gold, text, gold, "positive", *about)


def measure(file: Path, encoded: str | None, rows: int) -> tuple[float, float]:
    """Seconds and bytes per sample to set up training, in this process."""
    load_tokenizer("embedded")("warm up")
    module = RationaleDataModule(train=str(file), drop_longer=True, validation_fraction=0.01, encoded=encoded)
    before, start = _resident("VmRSS"), time.monotonic()
    module.setup("fit")
    # Not getrusage: its peak is inherited from the process that started this one
    return (time.monotonic() - start) / rows, (_resident("VmHWM") - before) / rows


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def main(options: argparse.Namespace) -> None:
    """Measures and prints."""
    begin(options)
    rows = 2_000 if options.quick else options.rows
    with tempfile.TemporaryDirectory() as directory:
        file, table = Path(directory) / "samples.jsonl", str(Path(directory) / "encoded")
        write_rationales(file, samples(rows))
        measured = []
        ways = {"encode, no table": None, "encode, make the table": table, "read the table": table}
        for name, encoded in ways.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, held = pool.apply(measure, (file, encoded, rows))
            measured.append([name, f"{1e6 * seconds:.2f}", f"{held:.0f}"])
        show(["one process", "µs per sample", "bytes per sample"], measured)
        print(f"\n{rows:,} samples, {file.stat().st_size / rows:.0f} bytes each in the file")


if __name__ == "__main__":
    parser = arguments("What encoding a training file costs, with and without a table.")
    parser.add_argument("--rows", type=int, default=100_000, help="samples")
    main(parser.parse_args())
