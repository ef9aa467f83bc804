"""Writes what `predict` samples, as it goes, and picks up where an interrupted run stopped."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import IO, Any

import lightning as L

from callbacks.grading import SampleGrader
from callbacks.preemption import Preempted
from callbacks.tensorboard import show_rationales
from datamodules.components.records.records import Rationale, rationale_id, write_rationales
from dust2gold.core.errors import InputError
from dust2gold.core.files import free_aside, open_in_place, set_aside, sha256_of, sketch_of, write_bytes_atomically
from dust2gold.core.locks import Lock
from dust2gold.core.students import locate_student
from lightning_modules.components.sampling.sampler import Sample

_OF_A_RUN = frozenset({"adapter", "adapter-last", "checkpoints"})
"""Directories that a run writes its weights into."""


class SampleWriter(L.Callback):
    """Grades each question's samples and appends them to a part file per rank; joins the parts at the end.

    A part begins with a line that says what it was made from (questions, adapter, sampling settings); a part made from
    the same is continued, one made from anything else is begun anew. The joined file is in the order of the questions.
    One command at a time may write a file: a second one is refused.

    Args:
        output: File to write; relative paths start at the Trainer's `default_root_dir`.
        writer: Who samples, for the records' field `writer`; default: the run that trained the adapter or checkpoint
            ("cot-kd", "nat", "nce", …), the student where there is none.
        shown: How many rationales to show in TensorBoard.
    """

    def __init__(self, output: str = "samples.jsonl", writer: str | None = None, shown: int = 8) -> None:
        self.output = output
        self.writer = writer
        self.shown = shown
        self._stream: IO[Any] | None = None
        self._lock: Lock | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Reads the parts of an interrupted run and leaves its questions out of this one.

        Raises:
            InputError: If another command is writing the file, or the place cannot be written.
        """
        if stage != "predict":
            return
        self.writer = self.writer or _trained_by(trainer, pl_module)
        self._path = Path(trainer.default_root_dir) / self.output
        self._take_lock(trainer)
        self._key = _made_from(trainer, pl_module, self.writer)
        done: dict[str, dict[str, Rationale]] = {}
        parts = {part: _Part.read(part, self._key) for part in self._parts()}
        for part in parts.values():
            for rationale in part.records:
                done.setdefault(rationale.question_id, {})[rationale.id] = rationale
        wanted: int = pl_module.sampling.samples  # type: ignore[union-attr,assignment]
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        asked = {question.id for question, _ in data.questions}
        self._done = {
            name: list(records.values())
            for name, records in done.items()
            if name in asked and records.keys() == {rationale_id(name, k) for k in range(wanted)}
        }
        trainer.strategy.barrier("samples read")  # before any rank rewrites its part
        if trainer.is_global_zero:
            _tell_of(parts)
        data.exclude_questions(set(self._done))
        if self._done and trainer.is_global_zero:
            print(f"resuming: {len(self._done)} of {len(data.questions)} questions are sampled already")
        self._begin_part(trainer)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes the grader, once the DataModule is set up, and listens to the module."""
        self._grader = SampleGrader(trainer, self.writer or "")
        self._listener = partial(self._write, trainer)
        module: Any = pl_module
        module.sample_listeners.append(self._listener)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listens no longer."""
        module: Any = pl_module
        module.sample_listeners.remove(self._listener)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: list[Sample],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Shows a few samples of the first batch."""
        if batch_idx == 0:
            show_rationales(trainer, "samples", self._grader.records(outputs[: self.shown], batch))

    def _write(self, trainer: L.Trainer, samples: list[Sample], batch: dict[str, Any]) -> None:
        """Appends a question's graded samples; after SIGTERM, which Lightning notes and forgets, it stops there.

        Raises:
            Preempted: After SIGTERM.
        """
        if self._stream is not None:
            self._append(self._stream, self._grader.records(samples, batch))
        if trainer.received_sigterm:
            print("SIGTERM: the same command goes on from here", file=sys.stderr)
            raise Preempted(signal.SIGTERM)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Joins the parts into the output, in the order of the questions, and removes them."""
        if stage == "predict" and self._stream is not None:
            self._join(trainer, self._stream)
        self._release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Lets others at the file."""
        self._release()

    def _join(self, trainer: L.Trainer, stream: IO[Any]) -> None:
        stream.close()
        self._stream = None
        trainer.strategy.barrier("samples written")
        if trainer.is_global_zero:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            order = {question.id: index for index, (question, _) in enumerate(data.questions)}
            records = [r for part in self._parts() for r in _Part.read(part, self._key).whole(part)]
            unique = {record.id: record for record in records}
            ordered = sorted(unique.values(), key=lambda r: (order[r.question_id], int(r.id.rsplit("/", 1)[1])))
            write_rationales(self._path, ordered)
            for part in self._parts():
                part.unlink()
            right = sum(record.verdict == "positive" for record in ordered)
            print(f"{len(ordered):,} samples, {right:,} right, in {self._path}")

    def _take_lock(self, trainer: L.Trainer) -> None:
        """Makes sure, on rank 0 for all, that no other command writes here: each would remove the other's parts."""
        free = True
        if trainer.is_global_zero:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = Lock(self._path.with_name(f".{self._path.stem}.lock"))
            except OSError as error:
                raise InputError(
                    f"cannot write ({error.strerror})", file=self._path, remedy="choose another output"
                ) from error
            free = self._lock.free
        if not trainer.strategy.broadcast(free):
            raise InputError(
                "another command is writing it",
                file=self._path,
                remedy="wait for it or stop it, or choose another --trainer.default_root_dir",
            )

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _parts(self) -> list[Path]:
        return sorted(self._path.parent.glob(f"{glob.escape(self._path.stem)}.part-*.jsonl"))

    def _begin_part(self, trainer: L.Trainer) -> None:
        part = self._path.with_name(f"{self._path.stem}.part-{trainer.global_rank}.jsonl")
        keep = [r for records in self._done.values() for r in records] if trainer.is_global_zero else []
        fresh = part.with_suffix(".new")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with open_in_place(fresh, "w") as stream:
                stream.write(json.dumps({"made_from": self._key}) + "\n")
                self._append(stream, keep)
            trainer.strategy.barrier("parts begun")
            if trainer.is_global_zero:  # finished questions move into rank 0's part, and the other parts are used up
                fresh.replace(part)
                for old in self._parts():
                    if old != part:
                        old.unlink()
            trainer.strategy.barrier("old parts removed")
            if not trainer.is_global_zero:
                fresh.replace(part)
            self._stream = open_in_place(part, "a")
        except OSError as error:
            raise InputError(f"cannot write ({error.strerror})", file=part, remedy="free some space") from error

    def _append(self, stream: IO[Any], records: list[Rationale]) -> None:
        try:
            for record in records:
                stream.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
            stream.flush()
        except OSError as error:
            raise InputError(
                f"cannot write ({error.strerror})",
                file=self._path,
                remedy="free some space and run the same command again: it goes on from here",
            ) from error


def _trained_by(trainer: L.Trainer, module: Any) -> str:
    """The name of the run whose `adapter` or `checkpoints` are given, as of any other directory; or the student's."""
    given = trainer.ckpt_path or module.adapter
    if given is None:
        return Path(module.student).name
    path = Path(given).resolve()
    path = path.parent if path.is_file() else path
    return path.parent.name if path.name in _OF_A_RUN else path.name


def _made_from(trainer: L.Trainer, module: Any, writer: str) -> str:
    """A hash of everything the samples depend on."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    facts = {
        "questions": sha256_of(data.question_file),
        "student": [module.student, module.dtype_name, data.tokenizer_name],
        "contents": [_base(module.student), _base(data.tokenizer_name)],
        "numbers": [module.quantization, module.random_weights, str(trainer.precision)],
        "adapter": _content(module.adapter),
        "checkpoint": _content(trainer.ckpt_path),
        "sampling": {name: value for name, value in asdict(module.sampling).items() if name != "rows"},
        "writer": writer,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _base(name: str) -> str | None:
    """A hash of a model's directory; None of a hub name."""
    directory = Path(locate_student(name))
    return sketch_of(directory) if directory.is_dir() else None


def _content(path: str | PathLike[str] | None) -> str | None:
    """A hash of a file or directory; a missing one is reported by whoever loads it, a moment later."""
    return sha256_of(Path(path)) if path is not None and Path(path).exists() else None


@dataclass(frozen=True)
class _Part:
    """What a part file holds.

    Attributes:
        fits: Whether it was made from what this run is made from; of another one no record is read.
        records: The whole ones.
        damaged: The numbers of lines that are none, counted from 1.
        torn: Bytes of a last line that was cut off.
        lines: How many it has, the first one, which says what it was made from, left out.
    """

    fits: bool
    records: list[Rationale]
    damaged: list[int]
    torn: int
    lines: int

    @classmethod
    def read(cls, file: Path, key: str) -> _Part:
        """Reads a part."""
        first, *lines = file.read_bytes().split(b"\n")
        torn = len(lines.pop()) if lines else 0
        if _maker(first) != key:
            return cls(False, [], [], 0, len(lines))
        read = {number: _record(line) for number, line in enumerate(lines, start=2)}
        damaged = [number for number, record in read.items() if record is None]
        return cls(True, [record for record in read.values() if record is not None], damaged, torn, len(lines))

    def whole(self, file: Path) -> list[Rationale]:
        """The records, where no line is damaged.

        Raises:
            InputError: If one is.
        """
        for number in self.damaged:
            raise InputError(
                "damaged line", file=file, line=number, remedy="run the same command again: it samples what stood there"
            )
        return self.records


def _maker(line: bytes) -> Any:
    """What the first line of a part says that it was made from; None if it is no such line."""
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        return json.loads(line).get("made_from")
    return None


def _tell_of(parts: Mapping[Path, _Part]) -> None:
    """Says what of the parts is not used; what another command had sampled, or was damaged, is set aside."""
    for file, part in parts.items():
        if part.torn:
            print(f"warning: {file}: left out {part.torn:,} bytes after the last whole line", file=sys.stderr)
        if part.damaged:  # a copy: until the part is begun anew, its whole samples are nowhere else
            write_bytes_atomically(copy := free_aside(file), file.read_bytes())
            print(f"warning: {file}: left out {_counted(part.damaged)}; kept a copy: {copy}", file=sys.stderr)
        if not part.fits and part.lines:
            print(f"kept the samples of another command, or damaged ones: {set_aside(file)}", file=sys.stderr)


def _counted(lines: list[int]) -> str:
    """How many lines are damaged, and which are the first."""
    some = ", ".join([*(str(number) for number in lines[:3]), *(["…"] if len(lines) > 3 else [])])
    return f"{len(lines):,} damaged line{'' if len(lines) == 1 else 's'} ({some})"


def _record(line: bytes) -> Rationale | None:
    """The record of a line; None if it is damaged."""
    try:
        value = json.loads(line.decode("utf-8"))
        return Rationale.from_json(value) if isinstance(value, dict) else None
    except (ValueError, RecursionError, InputError):
        return None
