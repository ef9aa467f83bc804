"""Checkpoint files: written whole or not at all, the one before kept, and read without running what is in them.

A checkpoint is what `torch.save` writes, a zip archive: each of its records carries a CRC-32, which reading checks.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from foundation.errors import InputError
from foundation.files import sha256_of, write_atomically, write_bytes_atomically

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
FINISHED = "finished.json"


class DamagedCheckpointError(InputError):
    """A checkpoint that is not as it was written."""


class CheckedCheckpoints(TorchCheckpointIO):
    """Lightning's reader and writer of checkpoints, made safe against kills, full disks, bit rot and pickled code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Replaces `path` in one step. Of `last.ckpt` the one before stays, as `previous.ckpt`.

        Raises:
            InputError: If the directory cannot be written or the disk is full; what stood there stays.
        """
        buffer = io.BytesIO()  # torch's own writer reports a full disk as a RuntimeError
        torch.save(checkpoint, buffer)
        path = Path(path)
        if path.name == LAST and path.is_file():
            _keep(path, path.with_name(PREVIOUS))
        write_bytes_atomically(path, buffer.getvalue())

    def load_checkpoint(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Reads a checkpoint onto the CPU, see `read_checkpoint`."""
        return read_checkpoint(Path(path))


def install(trainer: L.Trainer) -> None:
    """Makes a Trainer read and write its checkpoints this way, unless it was given a way of its own."""
    strategy: Any = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = CheckedCheckpoints()


def checkpoint_directory(trainer: L.Trainer) -> Path:
    """Where a run's checkpoints lie: a place that does not depend on the logger's version."""
    return Path(trainer.default_root_dir) / "checkpoints"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint: every checksum in it is checked, and nothing but tensors and plain values is made of it.

    Raises:
        DamagedCheckpointError: If it is truncated, or a checksum does not hold.
        InputError: If it is missing, or holds objects whose reading would run code.
    """
    if not path.is_file():
        raise InputError("no such checkpoint", file=path, field="ckpt_path", remedy="give the path of a checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise _damaged(path, "it is truncated or no checkpoint") from error
    if broken is not None:
        raise _damaged(path, f"the checksum of '{broken}' does not hold")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            "the checkpoint holds more than tensors and plain values: reading it could run code, so it is refused",
            file=path, remedy="use a checkpoint that dust2gold wrote, from a place you trust",
        ) from error  # fmt: skip
    except (RuntimeError, ValueError, EOFError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from error
    if not isinstance(checkpoint, dict):
        raise _damaged(path, "it is no checkpoint")
    return checkpoint


def mark_finished(directory: Path) -> None:
    """Notes that the training which `last.ckpt` belongs to came to its end; another `last.ckpt` voids the note."""
    with write_atomically(directory / FINISHED) as stream:
        json.dump({"schema": 1, "sha256": sha256_of(directory / LAST)}, stream)
        stream.write("\n")


def is_finished(directory: Path) -> bool:
    """Whether `last.ckpt` belongs to a training that came to its end."""
    try:
        note = json.loads((directory / FINISHED).read_text(encoding="utf-8"))
        return bool(note["sha256"] == sha256_of(directory / LAST))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _keep(path: Path, copy: Path) -> None:
    """Makes `copy` another name of `path`, which is about to be replaced and never written into."""
    fresh = copy.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    try:
        os.link(path, fresh)
        fresh.replace(copy)
    except OSError:  # a file system without hard links
        write_bytes_atomically(copy, path.read_bytes())


def _damaged(path: Path, what: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"the checkpoint is damaged: {what}", file=path,
        remedy=f"give --ckpt_path another one, e.g. {path.with_name(PREVIOUS)}, or begin anew with --ckpt_path none",
    )  # fmt: skip
