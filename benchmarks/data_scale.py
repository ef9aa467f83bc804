"""What a sample costs one process beside the steps: preparing, encoding, planning, scoring, joining, votes.

    python -m benchmarks.data_scale                    # 100,000 samples of about 330 tokens, in a temporary place
    python -m benchmarks.data_scale --rows 1000000 --only plan

Each is measured in a process of its own: seconds on the clock, and how far its resident memory rose above what it was
with everything imported, both a sample. `benchmarks.scaling` extrapolates from these figures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import arguments, begin, show

WORDS = "the a sum of and so we find that number is apples total each then multiply by two adding gives"


def write_samples(file: Path, rows: int, longest: int = 140, wrong: bool = False) -> None:
    """Writes rationales, four to a question, of a length like MATH's: right ones, or right and wrong ones in turn."""
    chance, words = random.Random(0), WORDS.split()
    with file.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            if number % 4 == 0:
                question = " ".join(chance.choices(words, k=35))
            name, gold = f"q-{number // 4:08d}", str(number % 97)
            text = " ".join(chance.choices(words, k=chance.randint(40, longest)))
            record = {
                "schema": 1,
                "id": f"{name}/{number % 4}",
                "question_id": name,
                "question": question,
                "gold": gold,
                "rationale": f"{text} \\boxed{{{gold}}}",
                "answer": gold,
                "verdict": "negative" if wrong and number % 2 else "positive",
                "subject": "Algebra",
                "level": "Level 3",
                "source": "synthetic",
                "writer": "teacher",
                "logprob": None,
                "tokens": None,
                "seed": None,
                "score": None,
            }
            stream.write(json.dumps(record) + "\n")


def _warm_up() -> None:
    """Imports what encoding and tables need: that is no sample's cost."""
    import datasets  # noqa: F401

    from datamodules.components.encoding.tokenization import load_tokenizer

    load_tokenizer("embedded")("warm")


def prepared(file: Path, rows: int) -> Callable[[], object]:
    """Grading by strings, reading our own records: their ids are kept; a publisher's file is read without."""
    from dust2gold.commands.prepare import prepare

    return lambda: prepare(file, "records", file.parent / "prepared")


def read(file: Path, rows: int) -> Callable[[], object]:
    """Reading and encoding for training."""
    from datamodules.rationales import RationaleDataModule

    _warm_up()
    module = RationaleDataModule(train=str(file), drop_longer=True, validation_fraction=0.01)
    return lambda: module.setup("fit")


def mapped(file: Path, rows: int) -> Callable[[], object]:
    """The same with `encoded`: where it is not there yet it is made, then and in every later process it is mapped."""
    from datamodules.rationales import RationaleDataModule

    _warm_up()
    keep = str(file.parent / "encoded")
    module = RationaleDataModule(train=str(file), drop_longer=True, validation_fraction=0.01, encoded=keep)
    return lambda: module.setup("fit")


def planned(kind: str) -> Callable[[Path, int], Callable[[], object]]:
    """Planning one epoch over 8 ranks."""

    def make(file: Path, rows: int) -> Callable[[], object]:
        from datamodules.components.batching.plan import Batching, Packing, RowBatches, TokenBudget
        from datamodules.components.batching.sampler import TrainingSampler

        batching: Batching = {"rows": RowBatches(16), "budget": TokenBudget(4096), "packing": Packing(1024, 4)}[kind]
        chance = random.Random(0)
        lengths = [chance.randint(80, 400) for _ in range(rows)]
        return lambda: TrainingSampler(lengths, batching, world=8)

    return make


def indexed(file: Path, rows: int) -> Callable[[], object]:
    """Opening a teacher cache of so many samples of one row: what each process keeps of where they lie."""
    from lightning_modules.components.distillation.record_file import RecordStore

    store = RecordStore(file.parent / "cache", 4)
    for number in range(rows):
        store.add(number.to_bytes(16, "big"), 1, b"1234")
    store.close()
    return lambda: RecordStore(file.parent / "cache", 4)


READ_WHOLE = 85
"""Most words of a rationale that the embedded student is given whole: those to be scored must not be longer."""


def paired(file: Path, rows: int) -> Callable[[], object]:
    """What every process of RANK's training keeps, with an epoch's pairs drawn."""
    from datamodules.pairs import PairDataModule

    _warm_up()
    mixed = file.parent / "mixed.jsonl"
    write_samples(mixed, rows, wrong=True)
    module = PairDataModule(train=str(mixed), drop_longer=True, validation_fraction=0.01)

    def run() -> object:
        module.setup("fit")
        return next(iter(module.train_dataloader().batch_sampler))  # type: ignore[arg-type]

    return run


def scored(file: Path, rows: int) -> Callable[[], object]:
    """What every process keeps to score a file of samples."""
    from datamodules.pairs import PairDataModule

    _warm_up()
    short = file.parent / "short.jsonl"
    write_samples(short, rows, READ_WHOLE)
    module = PairDataModule(predict=str(short))

    def run() -> object:
        module.setup("predict")
        return module.predict_dataloader()

    return run


def asked(file: Path, rows: int) -> Callable[[], object]:
    """What every process keeps of as many questions to sample answers to."""
    from datamodules.rationales import RationaleDataModule

    _warm_up()
    questions, words, chance = file.parent / "questions.jsonl", WORDS.split(), random.Random(0)
    with questions.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            record = {
                "schema": 1,
                "id": f"q-{number:08d}",
                "question": " ".join(chance.choices(words, k=35)),
                "gold": str(number % 97),
                "solution": "",
                "subject": "Algebra",
                "level": "Level 3",
                "source": "synthetic",
            }
            stream.write(json.dumps(record) + "\n")
    module = RationaleDataModule(questions=str(questions))

    def run() -> object:
        module.setup("predict")
        return module.predict_dataloader()

    return run


def joined(file: Path, rows: int) -> Callable[[], object]:
    """What the first process keeps to put all processes' samples into the questions' order."""
    from callbacks.samples import _Part

    part = file.parent / "samples.part-0.jsonl"
    with part.open("w", encoding="utf-8") as stream, file.open(encoding="utf-8") as samples:
        stream.write(json.dumps({"made_from": "key"}) + "\n")
        stream.writelines(line for _, line in zip(range(rows), samples, strict=False))
    return lambda: _Part.read(part, "key")


def voting(file: Path, rows: int) -> Callable[[], object]:
    """What every process keeps of the samples that vote."""
    from datamodules.votes import VoteDataModule

    module = VoteDataModule(samples=str(file))
    return lambda: module.setup("test")


MEASURED = {
    "prepare (strings)": prepared,
    "read and encode": read,
    "encode to map": mapped,
    "map": mapped,
    "plan, rows": planned("rows"),
    "plan, token budget": planned("budget"),
    "plan, packing": planned("packing"),
    "teacher cache's index": indexed,
    "RANK's pairs": paired,
    "score": scored,
    "questions": asked,
    "join samples": joined,
    "vote": voting,
}


def measure(name: str, file: Path, rows: int) -> tuple[float, float]:
    """Seconds and bytes a sample, in this process."""
    run = MEASURED[name](file, rows)
    before = _resident("VmRSS")
    began = time.monotonic()
    kept = run()
    seconds = time.monotonic() - began
    peak = _resident("VmHWM")  # getrusage would tell of the process that started this one, too
    del kept
    return seconds / rows, (peak - before) / rows


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def main(options: argparse.Namespace) -> None:
    """Measures and prints."""
    begin(options)
    rows = 2_000 if options.quick else options.rows
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "samples.jsonl"
        write_samples(file, rows)
        table = []
        for what in (name for name in MEASURED if options.only in name):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, held = pool.apply(measure, (what, file, rows))
            table.append([what, f"{1e6 * seconds:.2f}", f"{held:.0f}"])
        show(["one process", "µs a sample", "bytes a sample"], table)
        print(f"\n{rows:,} samples, {file.stat().st_size / rows:.0f} bytes each in the file")


if __name__ == "__main__":
    parser = arguments("Measures what a sample costs before the first step.")
    parser.add_argument("--rows", type=int, default=100_000, help="samples (default %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="measure what has this in its name alone, as plan")
    main(parser.parse_args())
