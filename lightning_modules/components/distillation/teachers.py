"""NCE's teachers, M_NAT and M_neg, on the student's own base: computed at every step, or once per sample and cached.

What a student needs of them are `TeacherTargets`: d numbers and one divergence per target token, not V probabilities.
Frozen teachers give the same in every epoch, so `CachedTeacher` computes them when it first meets a sample. All go
through the same storage, fresh ones too: a resumed run sees what an undisturbed one sees.
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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dust2gold.core.errors import InputError
from dust2gold.core.files import write_atomically
from dust2gold.core.provenance import Provenance
from dust2gold.core.text import spelled
from lightning_modules.components.adapters.nat import NEGATIVE, POSITIVE
from lightning_modules.components.adapters.stack import AdapterStack
from lightning_modules.components.distillation.cache import Columns, SampleCache
from lightning_modules.components.distillation.storage import STORAGES, Storage
from lightning_modules.components.losses.output_head import TeacherTargets
from lightning_modules.components.losses.targets import IGNORE, Targets, at_targets, find_targets

FACTS_FILE = "facts.json"


@dataclass(frozen=True)
class CacheSettings:
    """What a cached teacher keeps.

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
            remedy = f"choose one of {', '.join(STORAGES)}"
            raise InputError(f"unknown storage '{self.storage}'", field="model.cache.storage", remedy=remedy)
        if self.top_k < 1:
            raise InputError(f"must be positive, found {self.top_k}", field="model.cache.top_k")


class Teacher(ABC):
    """Gives the targets of a batch. Sees no dropout, and leaves the stack as it was."""

    @abstractmethod
    def targets_for(self, batch: dict[str, Any], targets: Targets) -> TeacherTargets:
        """What M_NAT and M_neg predict at the batch's N targets."""

    def reader(self) -> CacheReader | None:
        """What makes a batch's field `teacher`, if it has one."""
        return None

    def flush(self) -> None:  # noqa: B027  # an online teacher keeps nothing
        """Writes what is not written yet; called when a checkpoint is saved, between epochs and at the end."""

    def refresh(self) -> None:  # noqa: B027
        """Looks for what other processes have written; called between epochs."""


@dataclass
class OnlineTeacher(Teacher):
    """Runs both adapters at every step.

    Attributes:
        stack: With the adapters `positive` (NAT's, with its units) and `negative` on it.
        temperature: T of the distillation; the divergence is taken at 1.
        calibrated: False leaves M_neg and the divergence out.
        top_k: Keep M_NAT's k likeliest tokens instead of its mean embedding.
    """

    stack: AdapterStack
    temperature: float = 1.0
    calibrated: bool = True
    top_k: int | None = None

    @torch.no_grad()
    def targets_for(self, batch: dict[str, Any], targets: Targets) -> TeacherTargets:
        """One forward pass of each adapter."""
        negative = self._hidden(NEGATIVE, batch, targets) if self.calibrated else None  # [N, d]
        positive = self._hidden(POSITIVE, batch, targets)  # [N, d]
        return self.stack.head.teacher_targets(positive, negative, self.temperature, self.top_k)

    def _hidden(self, adapter: str, batch: dict[str, Any], targets: Targets) -> Tensor:
        with self.stack.using(adapter):
            hidden = self.stack.hidden_of(batch)
        return at_targets(hidden, targets)  # [N, d]


class CachedSamples(NamedTuple):
    """What a cache has of a batch's samples with a target, in the targets' order."""

    keys: list[str]
    counts: list[int]  # target tokens of each
    found: list[bool]
    columns: Columns  # [N', ...], of those found one after the other


@dataclass
class CacheReader:
    """Reads the targets of a batch's samples, where the batch is made: in a loader's workers, too."""

    storage: Storage
    cache: SampleCache

    def __call__(self, batch: dict[str, Any]) -> CachedSamples:
        """Of the samples that are in the cache; looks for other processes' files where some are not."""
        keys = list(sample_keys(batch, find_targets(batch)))
        if any(self.cache.get(key) is None for key, _ in keys):
            self.cache.refresh()
        samples = [self.cache.get(key) for key, _ in keys]
        columns = self.storage.joined([columns for columns in samples if columns is not None])
        found = [columns is not None for columns in samples]
        return CachedSamples([key.hex() for key, _ in keys], [count for _, count in keys], found, columns)


@dataclass
class CachedTeacher(Teacher):
    """Computes each sample's targets once and keeps them.

    A sample's key is its tokens and the positions of its targets, so of changed or reordered data only what is new is
    computed. What else decides the targets (adapters, base, temperature, storage) names the cache's directory.
    """

    teacher: Teacher
    storage: Storage
    cache: SampleCache

    def reader(self) -> CacheReader:
        """What makes a batch's field `teacher`."""
        return CacheReader(self.storage, self.cache)

    def targets_for(self, batch: dict[str, Any], targets: Targets) -> TeacherTargets:
        """From the batch's field `teacher`, or read here; runs the teacher only if a sample is in no cache."""
        kept: CachedSamples = batch.get("teacher") or self.reader()(batch)
        columns = kept.columns if all(kept.found) else self._completed(kept, batch, targets)
        return self.storage.decode(columns, targets.tokens.device)

    def _completed(self, kept: CachedSamples, batch: dict[str, Any], targets: Targets) -> Columns:
        """The columns of all samples [N, ...]; adds to the cache what was missing."""
        sizes = [count for count, found in zip(kept.counts, kept.found, strict=True) if found]
        read = {name: iter(column.cpu().split(sizes)) for name, column in kept.columns.items()}
        samples, start = list[Columns](), 0
        fresh: Columns | None = None
        for name, count, found in zip(kept.keys, kept.counts, kept.found, strict=True):
            key = bytes.fromhex(name)
            # Here stands what this process has not written yet, and a sample that is in the batch twice.
            columns = {name: next(parts) for name, parts in read.items()} if found else self.cache.get(key)
            if columns is None:
                fresh = fresh or self.storage.encode(self.teacher.targets_for(batch, targets))
                columns = {name: column[start : start + count].clone() for name, column in fresh.items()}
                self.cache.add(key, columns)
            samples.append(columns)
            start += count
        return self.storage.joined(samples)

    def flush(self) -> None:
        """Writes what was added."""
        self.cache.flush()

    def refresh(self) -> None:
        """Finds other processes' files."""
        self.cache.refresh()


def sample_keys(batch: dict[str, Any], targets: Targets) -> Iterator[tuple[bytes, int]]:
    """Of each sample with a target, in the targets' order: a hash of its tokens and target positions, and its N."""
    ids, labels, mask = (batch[k].cpu() for k in ("input_ids", "labels", "attention_mask"))  # [B, T] each
    segments = batch["segments"].cpu() if "segments" in batch else None  # [B, T]
    rows = targets.positions.cpu() // ids.shape[1]  # [N]
    samples, counts = torch.unique_consecutive(targets.sample.cpu(), return_counts=True)  # [S'], those with a target
    first = counts.cumsum(0) - counts  # [S']
    for sample, count, row in zip(samples.tolist(), counts.tolist(), rows[first].tolist(), strict=True):
        own = mask[row].bool() if segments is None else segments[row] == sample  # [T]
        is_target = labels[row][own] != IGNORE  # [length]
        is_target[0] = False  # nothing predicts a first token
        content = ids[row][own].numpy().tobytes() + is_target.numpy().tobytes()
        yield hashlib.blake2b(content, digest_size=16).digest(), count


def cached_teacher(
    stack: AdapterStack,
    settings: CacheSettings,
    directory: Path,
    temperature: float,
    calibrated: bool,
    rank: int = 0,
    **facts: Any,
) -> CachedTeacher:
    """An `OnlineTeacher` behind a cache.

    The cache stands in `directory`, from which caches of other teachers are removed, unless the settings name one.
    `facts` are what else decides the teachers' numbers: the adapters' directory, the precision.
    """
    top_k = settings.top_k if settings.storage == "top_k" else None
    vocabulary, width = stack.base.get_output_embeddings().weight.shape
    storage = STORAGES[settings.storage](int(vocabulary), int(width), calibrated, settings.top_k)
    made = Provenance.of(
        {
            "base": stack.identity.key,
            "head": type(stack.head).__name__,
            "temperature": temperature,
            "calibrated": calibrated,
            "storage": settings.storage,
            "top_k": top_k,
            **facts,
        },
        libraries=("peft", "torch", "transformers"),
    )
    parent = directory if settings.directory is None else Path(settings.directory)
    own = parent / made.key
    if settings.directory is None:
        _remove_others(own, made)
    with write_atomically(own / FACTS_FILE) as stream:
        json.dump(dict(made.facts), stream, indent=2)
    cache = SampleCache(own, storage.columns, rank)
    if len(cache):
        print(f"{own}: teacher targets of {len(cache):,} samples are there", file=sys.stderr)
    return CachedTeacher(OnlineTeacher(stack, temperature, calibrated, top_k), storage, cache)


def _remove_others(own: Path, made: Provenance) -> None:
    """Removes caches made from something else, and prints what differs."""
    for file in own.parent.glob(f"*/{FACTS_FILE}"):
        if file.parent == own:
            continue
        try:
            changed = made.differences(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError):
            changed = ["its facts are unreadable"]
        print(f"{file.parent}: of other teachers ({spelled(', '.join(changed))}); removed", file=sys.stderr)
        shutil.rmtree(file.parent, ignore_errors=True)
