"""NCE's teachers, M_NAT and M_neg, on the student's own base: asked at every step, or once per sample and remembered.

What a student needs of them is a `Lesson` per target token: d numbers and one divergence, not V probabilities. Frozen
teachers say the same in every epoch, so `CachedTeacher` asks when it meets a sample for the first time and reads its
answer off a memory-mapped file ever after. First and later times go through the same storage: a run that was killed
and goes on sees what an undisturbed one sees.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dust2gold.core.errors import InputError
from dust2gold.core.files import write_atomically
from dust2gold.core.text import spelled
from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE
from lightning_modules.components.adapters.stack import AdapterStack
from lightning_modules.components.distillation.record_file import RecordStore
from lightning_modules.components.distillation.storage import STORAGES, Storage
from lightning_modules.components.losses.output_head import Lesson
from lightning_modules.components.losses.targets import IGNORE, Targets, at_targets

FACTS_FILE = "facts.json"


@dataclass(frozen=True)
class CacheSettings:
    """How a cached teacher remembers.

    Attributes:
        storage: `float16`: mean embeddings, 2 d bytes a token, KD's gradient to 1e-3; `float32`: exact, 4 d bytes;
            `top_k`: the k likeliest tokens and a tail shaped like the student's, 6 k bytes (4 k up to 65,536 tokens).
        top_k: k.
        directory: Where; null is `teacher/` in the run's directory, where caches of other teachers are removed.
    """

    storage: str = "float16"
    top_k: int = 64
    directory: str | None = None

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise InputError(
                f"unknown storage '{self.storage}'",
                field="model.cache.storage",
                remedy=f"choose one of {', '.join(STORAGES)}",
            )
        if self.top_k < 1:
            raise InputError(f"must be positive, found {self.top_k}", field="model.cache.top_k")


class Teacher(ABC):
    """Gives the lesson of a batch. Sees no dropout, and leaves the stack as it was."""

    @abstractmethod
    def lesson(self, batch: dict[str, Any], targets: Targets) -> Lesson:
        """What M_NAT and M_neg say at the batch's N targets."""

    def refresh(self) -> None:  # noqa: B027  # an online teacher has nothing to look up
        """Looks for what other processes have learnt; called between epochs."""


class OnlineTeacher(Teacher):
    """Runs both adapters at every step.

    Args:
        stack: With the adapters `positive` (NAT's, with its units) and `negative` on it.
        temperature: T of the distillation; the divergence is taken at 1.
        calibrated: False leaves M_neg and the divergence out.
        top_k: Sum M_NAT up by its k likeliest tokens instead of its mean embedding.
    """

    def __init__(
        self, stack: AdapterStack, temperature: float = 1.0, calibrated: bool = True, top_k: int | None = None
    ) -> None:
        self.stack = stack
        self.temperature = temperature
        self.calibrated = calibrated
        self.top_k = top_k

    @torch.no_grad()
    def lesson(self, batch: dict[str, Any], targets: Targets) -> Lesson:
        """See `Teacher.lesson`."""
        negative = self._hidden(NEGATIVE, batch, targets) if self.calibrated else None
        return self.stack.head.teach(self._hidden(POSITIVE, batch, targets), negative, self.temperature, self.top_k)

    def _hidden(self, adapter: str, batch: dict[str, Any], targets: Targets) -> Tensor:
        with self.stack.using(adapter):
            hidden = self.stack.hidden(batch["input_ids"], batch["attention_mask"], batch.get("position_ids"))
        return at_targets(hidden, targets)


class CachedTeacher(Teacher):
    """Asks an online teacher once per sample and remembers.

    A sample is known by its tokens and where its targets stand, so changed, added or reordered data need nothing but
    what is new. What else decides the lesson (adapters, base, temperature, storage) names the directory.

    Args:
        teacher: Who is asked.
        storage: How lessons become bytes.
        directory: Holds one directory per set of facts.
        facts: What the lessons depend on beside the sample.
        tidy: Remove the directories of other facts.

    Attributes:
        hits: Samples found so far.
        misses: Samples asked for so far.
    """

    def __init__(
        self, teacher: Teacher, storage: Storage, directory: Path, facts: dict[str, Any], tidy: bool = False
    ) -> None:
        self.teacher = teacher
        self.storage = storage
        own = directory / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        if tidy:
            _remove_others(own, facts)
        self.store = RecordStore(own, storage.row_bytes)
        with write_atomically(own / FACTS_FILE) as stream:
            json.dump(facts, stream, indent=2)
        self.hits = self.misses = 0
        if len(self.store):
            print(f"{own}: the teachers' lessons of {len(self.store):,} samples are there", file=sys.stderr)

    def lesson(self, batch: dict[str, Any], targets: Targets) -> Lesson:
        """See `Teacher.lesson`."""
        keys = list(sample_keys(batch, targets))
        missing = [key for key, _ in keys if key not in self.store]
        self.hits, self.misses = self.hits + len(keys) - len(missing), self.misses + len(missing)
        if missing:
            self._ask(batch, targets, keys)
        rows = [self._row_bytes_of(key, count) for key, count in keys]
        return self.storage.decode(rows, targets.tokens.device)

    def refresh(self) -> None:
        """See `Teacher.refresh`."""
        self.store.refresh()

    def _ask(self, batch: dict[str, Any], targets: Targets, keys: list[tuple[bytes, int]]) -> None:
        lesson, start = self.teacher.lesson(batch, targets), 0
        for key, count in keys:
            if key not in self.store:
                self.store.add(key, count, self.storage.encode(lesson, slice(start, start + count)))
            start += count

    def _row_bytes_of(self, key: bytes, count: int) -> memoryview:
        rows, payload = self.store.get(key)
        assert rows == count, "the key tells the number of targets"
        return payload


def sample_keys(batch: dict[str, Any], targets: Targets) -> Iterator[tuple[bytes, int]]:
    """Of each sample with a target, in the targets' order: a hash of its tokens and target places, and their number."""
    ids, labels, mask = (batch[k].cpu() for k in ("input_ids", "labels", "attention_mask"))
    segments = batch["segments"].cpu() if "segments" in batch else None
    rows = targets.where.nonzero()[:, 0].cpu()
    samples, counts = torch.unique_consecutive(targets.sample.cpu(), return_counts=True)
    first = counts.cumsum(0) - counts
    for sample, count, row in zip(samples.tolist(), counts.tolist(), rows[first].tolist(), strict=True):
        own = mask[row].bool() if segments is None else segments[row] == sample
        places = labels[row][own] != IGNORE
        places[0] = False  # nothing predicts a first token
        content = ids[row][own].numpy().tobytes() + places.numpy().tobytes()
        yield hashlib.blake2b(content, digest_size=16).digest(), count


def cached_teacher(
    stack: AdapterStack, settings: CacheSettings, directory: Path, temperature: float, calibrated: bool, **facts: Any
) -> CachedTeacher:
    """A cached teacher for the adapters on a stack.

    Args:
        stack: With the teachers' adapters.
        settings: How to remember.
        directory: Where, unless the settings say.
        temperature: As in `OnlineTeacher`.
        calibrated: As in `OnlineTeacher`.
        facts: Whatever else decides the teachers' numbers: a hash of the adapters, the precision.
    """
    head, top_k = stack.head, settings.top_k if settings.storage == "top_k" else None
    vocabulary, width = stack.base.get_output_embeddings().weight.shape
    storage = STORAGES[settings.storage](int(vocabulary), int(width), calibrated, settings.top_k)
    facts = {
        "format": 2,
        "base": stack.fingerprint,
        "dtype": str(stack.base.dtype),
        "head": type(head).__name__,
        "temperature": temperature,
        "calibrated": calibrated,
        "storage": settings.storage,
        "top_k": top_k,
        **facts,
    }
    place = directory if settings.directory is None else Path(settings.directory)
    teacher = OnlineTeacher(stack, temperature, calibrated, top_k)
    return CachedTeacher(teacher, storage, place, facts, tidy=settings.directory is None)


def _remove_others(own: Path, facts: dict[str, Any]) -> None:
    """Removes caches that other facts made, saying which facts changed."""
    for file in own.parent.glob(f"*/{FACTS_FILE}"):
        if file.parent == own:
            continue
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))
            changed = [name for name in facts if earlier.get(name) != facts[name]]
        except (OSError, ValueError):
            changed = ["its facts are unreadable"]
        print(f"{file.parent}: of other teachers ({spelled(', '.join(changed))}); removed", file=sys.stderr)
        shutil.rmtree(file.parent, ignore_errors=True)
