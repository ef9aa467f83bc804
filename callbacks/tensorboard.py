"""The run's TensorBoard writer and its thread, and rationales shown in it as escaped text."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from datamodules.components.records.records import Rationale
from dust2gold.core.text import visible

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

SHOWN = 8
"""How many rationales of a run are worth showing."""


def writer_of(trainer: L.Trainer) -> SummaryWriter | None:
    """The TensorBoard writer of this process; None where there is none (no such logger, or not rank 0)."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            writer: SummaryWriter = logger.experiment
            return writer
    return None


_other_threads = threading.excepthook


def thread_failed(failure: threading.ExceptHookArgs) -> None:
    """A `threading.excepthook` without TensorBoard's thread: its error is raised again at the next line it gets."""
    if type(failure.thread).__name__ != "_AsyncWriterThread":
        _other_threads(failure)


def show_rationales(trainer: L.Trainer, tag: str, rationales: Iterable[Rationale]) -> None:
    """Adds rationales with their verdicts to TensorBoard's text page, which reads Markdown; others' text is escaped."""
    writer = writer_of(trainer)
    if writer is None:
        return
    for index, rationale in enumerate(rationales):
        title = f"**{rationale.verdict}** · {_shown(rationale.id)} · gold {_shown(rationale.gold)}"
        lines = [*rationale.question.splitlines(), "", *rationale.rationale.splitlines()]
        body = "<br>".join(map(_shown, lines))  # not <pre>, whose long lines do not wrap
        writer.add_text(f"{tag}/{index}", f"{title}\n\n{body}", trainer.global_step)


def _shown(text: str) -> str:
    """Text of others on one line, with neither Markdown nor HTML in it: punctuation as entities."""
    return re.sub(r"[^\w\s]|_", lambda found: f"&#{ord(found[0])};", visible(text))
