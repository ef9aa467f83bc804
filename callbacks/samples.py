"""Writes what `predict` samples as it goes, and goes on where an interrupted run stopped."""

from __future__ import annotations

import glob
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any

import lightning as L

from callbacks.grading import graded
from callbacks.sample_parts import SampleOrigin, SamplePart
from callbacks.tensorboard import SHOWN, show_rationales
from datamodules.components.records.records import Rationale, rationale_id, write_rationales
from dust2gold.core.errors import InputError
from dust2gold.core.files import open_in_place, write_atomically
from dust2gold.core.provenance import LIBRARIES, Provenance, short_hash
from dust2gold.core.signals import Preempted, SignalListener
from lightning_modules.components.sampling.sampler import Sample

_OF_A_RUN = frozenset({"adapter", "adapter-last", "checkpoints"})
"""Directories that a run writes its weights into."""


class SampleWriter(L.Callback):
    """Grades each question's samples and appends them to a part file per rank; joins the parts at the end.

    A part made from the same prompts, adapter and settings is continued; one made from anything else is kept aside.
    The joined file is in the order of the questions. SIGTERM and SIGUSR1 end `predict` after the current question.

    Args:
        output: File to write, in the Trainer's `default_root_dir`, which one command at a time works in.
        writer: Who samples, for the records' field `writer`; default: the run that trained the adapter or checkpoint
            ("cot-kd", "nat", "nce", …), the student where there is none.
    """

    def __init__(self, output: str = "samples.jsonl", writer: str | None = None) -> None:
        if Path(output).is_absolute() or ".." in Path(output).parts:
            remedy = "give a path within --trainer.default_root_dir"
            raise InputError(f"'{output}' leads out of that directory", field="SampleWriter.output", remedy=remedy)
        self.output = output
        self.writer = writer
        self._stream: IO[Any] | None = None
        self._signals = SignalListener()

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Leaves out the questions that an interrupted run has sampled, and begins this rank's part."""
        if stage != "predict":
            return
        self.writer = self.writer or _trained_by(trainer, pl_module)
        self._path = Path(trainer.default_root_dir) / self.output
        if trainer.is_global_zero:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._origin = origin_of(trainer, pl_module, self.writer)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        done = self._resume(pl_module.sampling.samples) if trainer.is_global_zero else set()
        done = trainer.strategy.broadcast(done)
        data.exclude_questions(done)
        if done and trainer.is_global_zero:
            print(f"resuming: {len(done)} of {len(data.questions)} questions are sampled already")
        self._stream = open_in_place(self._part(trainer.global_rank), "a" if trainer.is_global_zero else "w")
        if not trainer.is_global_zero:
            self._origin.write_header(self._stream)

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Listens to the module."""
        self._listener = partial(self._write, trainer)
        pl_module.sample_listeners.append(self._listener)
        self._signals.listen()

    def on_predict_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Listens no longer."""
        pl_module.sample_listeners.remove(self._listener)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Shows a few samples of the first batch."""
        if batch_idx == 0:
            show_rationales(trainer, "samples", graded(trainer, self.writer or "", outputs[:SHOWN], batch))

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Joins the parts into the output, in the order of the questions, and removes them."""
        if stage == "predict" and self._stream is not None:
            self._join(trainer, self._stream, pl_module.sampling.samples)
        self._signals.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restores the signal handlers."""
        self._signals.stop()

    def _write(self, trainer: L.Trainer, samples: list[Sample], batch: dict[str, Any]) -> None:
        """Appends a question's graded samples; after a signal it stops there, and so do the processes it started."""
        if self._stream is not None:
            try:
                self._origin.write(self._stream, graded(trainer, self.writer or "", samples, batch))
                self._stream.flush()
            except OSError as error:
                remedy = "free some space and run the same command again: it goes on from here"
                raise InputError(f"cannot write ({error.strerror})", file=self._path, remedy=remedy) from error
        if (number := self._signals.received) is not None:
            stop = Preempted(number)
            if (launcher := trainer.strategy.launcher) is not None:
                launcher.kill(number)
            print(f"{stop.name}: the same command goes on from here", file=sys.stderr)
            raise stop

    def _resume(self, samples: int) -> set[str]:
        """Moves the samples of questions that have all of theirs into rank 0's part; returns the questions' ids."""
        done: dict[str, dict[str, Rationale]] = {}
        parts = [SamplePart.read(file, self._origin) for file in self._parts()]
        for part in parts:
            part.report_unused()
            for record in part.records if not part.changed else []:
                done.setdefault(record.question_id, {})[record.id] = record
        whole = {q: rs for q, rs in done.items() if rs.keys() == {rationale_id(q, k) for k in range(samples)}}
        with write_atomically(self._part(0)) as stream:
            self._origin.write_header(stream)
            self._origin.write(stream, (record for records in whole.values() for record in records.values()))
        for file in self._parts():
            if file != self._part(0):
                file.unlink()
        return set(whole)

    def _join(self, trainer: L.Trainer, stream: IO[Any], samples: int) -> None:
        stream.close()
        self._stream = None
        trainer.strategy.barrier("samples written")
        if not trainer.is_global_zero:
            return
        records = [record for part in self._parts() for record in SamplePart.read(part, self._origin).records]
        unique = {record.id: record for record in records}
        expected = [rationale_id(question, k) for question in self._origin.prompts for k in range(samples)]
        missing = [name for name in expected if name not in unique]
        if missing and trainer.limit_predict_batches == 1.0:  # a part was removed, or is not seen from here
            raise InputError(
                f"{len(missing):,} of {len(expected):,} samples are missing, e.g. {missing[0]}: not joined",
                file=self._path,
                remedy="run the same command again: it samples them; put the directory where all processes see it",
            )
        ordered = [unique[name] for name in expected if name in unique]
        write_rationales(self._path, ordered)
        for file in self._parts():
            file.unlink()
        right = sum(record.verdict == "positive" for record in ordered)
        unstated = sum(record.answer is None for record in ordered)
        print(f"{len(ordered):,} samples, {right:,} right, {unstated:,} without an answer, in {self._path}")
        if unstated > len(ordered) / 2:
            print(
                "most state no answer: are they cut off? --model.sampling.max_new_tokens is the limit", file=sys.stderr
            )

    def _part(self, rank: int) -> Path:
        return self._path.with_name(f"{self._path.stem}.part-{rank}.jsonl")

    def _parts(self) -> list[Path]:
        return sorted(self._path.parent.glob(f"{glob.escape(self._path.stem)}.part-*.jsonl"))


def origin_of(trainer: L.Trainer, module: Any, writer: str) -> SampleOrigin:
    """What samples are made from: settings, contents, versions, and the very prompts that are asked."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    made = Provenance.of(
        {
            "questions": data.question_file,
            "tokenizer": data.tokenizer_name,
            "prompt": data.prompt.key,
            "stops": data.stops,
            "student": module.student,
            "dtype": module.dtype_name,
            "quantization": module.quantization,
            "random_weights": module.random_weights,
            "precision": str(trainer.precision),
            "adapter": module.adapter,
            "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "sampling": asdict(module.sampling),
            "writer": writer,
        },
        without=() if module.sampling.exact else ("sampling.rows", "sampling.exact"),
        libraries=(*LIBRARIES, "vllm") if module.sampling.backend == "vllm" else LIBRARIES,
    )
    return SampleOrigin(made, {question.id: short_hash(prompt.tolist()) for question, prompt in data.questions})


def _trained_by(trainer: L.Trainer, module: Any) -> str:
    """The name of the run whose `adapter` or `checkpoints` are given, as of any other directory; or the student's."""
    given = trainer.ckpt_path or module.adapter
    if given is None:
        return Path(module.student).name
    path = Path(given).resolve()
    path = path.parent if path.is_file() else path
    return path.parent.name if path.name in _OF_A_RUN else path.name
