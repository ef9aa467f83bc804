"""Kills the verbs with `kill -9` at random points and compares what comes of it with an undisturbed run.

    python -m tests.faults [--points 20] [--seed 0] [--only fit-neg,predict]        (make faults)

Every file that matters and every loss must be the same to the last bit, but for the `logprob` of samples: killed within
a batch, `predict` decodes the rest of it beside other questions, and matrix products round differently.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from datamodules.components.records.records import read_rationales
from tests.fault_cases import Case, cases
from tests.forks import finish, killed, last_words
from tests.words import REPOSITORY

MOST_KILLS = 3  # of one trial
SAMPLES = "samples.jsonl"
ROUNDING = 1e-4  # nats


@dataclass
class Tally:
    """How a case fared: kills that hit a running process, trials, trials with another result than the undisturbed."""

    kills: int = 0
    trials: int = 0
    different: int = 0
    faults: list[str] = field(default_factory=list)


def main(args: list[str] | None = None) -> int:
    """Tries the cases and prints the table, and below it what was wrong; 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=20, help="kills of each case")
    parser.add_argument("--seed", type=int, default=0, help="of the points")
    parser.add_argument("--only", default="", metavar="CASE[,CASE]", help="these cases alone")
    options = parser.parse_args(args)
    prepare_process()
    faults = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        made = {case.name: case for case in cases(Path(name))}
        only = options.only.split(",") if options.only else list(made)
        if unknown := set(only) - set(made):
            parser.error(f"no case {', '.join(unknown)}: choose of {', '.join(made)}")
        print("| command | killed | runs | same as undisturbed | lost or different |\n|---|---|---|---|---|")
        for case in (case for case in made.values() if case.name in only):
            chance = random.Random(f"{options.seed}{case.name}")
            tally = torment(case, Path(name), options.points, chance)
            faults += [f"{case.name}: {fault}" for fault in tally.faults]
            cells = [case.name, tally.kills, tally.trials, tally.trials - tally.different, tally.different]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    print("\n".join(faults))
    return int(bool(faults))


def torment(case: Case, home: Path, points: int, chance: random.Random) -> Tally:
    """Kills a case at so many points."""
    whole, tally = home / f"{case.name}-whole", Tally()
    started = time.monotonic()
    if (code := finish(case.words(whole), home)) != 0:
        return Tally(faults=[f"the undisturbed run ended with {code}: {last_words(home)}"])
    duration = time.monotonic() - started
    expected = contents(whole, case.patterns)
    if not expected:
        return Tally(faults=[f"made none of {case.patterns}"])
    while tally.kills < points:
        root = home / f"{case.name}-{tally.trials}"
        for _ in range(min(chance.randint(1, MOST_KILLS), points - tally.kills)):
            if not strike(case, root, home, whole, duration, chance):
                break
            tally.kills += 1
        tally.trials += 1
        faults = compared(case, root, home, expected, whole)
        tally.faults += [f"run {tally.trials}: {fault}" for fault in faults]
        tally.different += bool(faults)
        shutil.rmtree(root)
    return tally


def strike(case: Case, root: Path, home: Path, whole: Path, duration: float, chance: random.Random) -> bool:
    """Kills a case at a random time (every third) or when it has done a random share of a whole run's work."""
    words = case.words(root)
    if chance.random() < 1 / 3:
        last = time.monotonic() + chance.uniform(0, duration)
        return killed(words, home, lambda: time.monotonic() > last)
    last_work = work(root) + chance.uniform(0, work(whole))
    return killed(words, home, lambda: work(root) > last_work, delay=chance.uniform(0, 0.02))


def work(root: Path) -> int:
    """A measure of what has been done: losses written down; of what trains nothing, bytes in and beside a directory."""
    inside = [Path(place) / name for place, _, names in os.walk(root) for name in names]  # no error at what vanishes
    logs = [file for file in inside if file.name == "losses.txt"]
    sizes = 0
    for file in logs or [*inside, *root.parent.glob(f"{root.name}.*")]:
        with suppress(FileNotFoundError):  # renamed just now
            sizes += file.stat().st_size
    return sizes


def compared(case: Case, root: Path, home: Path, expected: dict[str, str], whole: Path) -> list[str]:
    """Runs a tormented command to its end and says what differs from the undisturbed run."""
    if (code := finish(case.words(root), home)) != 0:
        return [f"ended with {code}: {last_words(home)}"]
    found = contents(root, case.patterns)
    faults = [f"{name} differs" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    faults += [f"{name} is {'missing' if name in expected else 'too much'}" for name in expected.keys() ^ found.keys()]
    for name in sorted(expected.keys() & found.keys()):
        if Path(name).name == SAMPLES and (far := distance(root / name, whole / name)) > ROUNDING:
            faults.append(f"logprob of {name} differs by {far:.1e}")
    mine, its = losses(root), losses(whole)
    if names := sorted(name for name in mine.keys() | its.keys() if mine.get(name) != its.get(name)):
        faults.append(f"{len(names)} losses differ, the first at {names[0]}")
    return faults


def contents(root: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Hashes of the files that count; of samples, of all but `logprob`."""

    def compared(file: Path) -> bytes:
        if file.name != SAMPLES:
            return file.read_bytes()
        return repr([replace(record, logprob=None) for record in read_rationales(file)]).encode()

    files = sorted({file for pattern in patterns for file in root.glob(pattern) if file.is_file()})
    return {str(file.relative_to(root)): sha256(compared(file)).hexdigest() for file in files}


def distance(samples: Path, whole: Path) -> float:
    """By how much the `logprob` of a file's samples differ from those of another one at most."""
    one, other = ([record.logprob or 0.0 for record in read_rationales(file)] for file in (samples, whole))
    return max((abs(mine - its) for mine, its in zip(one, other, strict=False)), default=0.0)


def losses(root: Path) -> dict[str, set[str]]:
    """What `LossFile` wrote under a directory: the values of each step, of all processes."""
    found: dict[str, set[str]] = {}
    for file in sorted(root.rglob("losses.txt")):
        for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
            name, value = line.rsplit(" ", 1)
            found.setdefault(f"{file.parent.relative_to(root)} {name}", set()).add(value)
    return found


def prepare_process() -> None:
    """Sets what the children share, and loads what each would otherwise spend its life loading."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"})
    os.environ["OPENAI_API_KEY"] = "sk-planted"
    sys.path.insert(0, str(REPOSITORY))
    import torch

    import dust2gold.commands.trainer  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
