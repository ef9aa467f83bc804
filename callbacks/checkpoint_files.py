"""Checkpoint files: written whole or not at all, the one before kept, and read without running what is in them.

A checkpoint is what `torch.save` writes, a zip archive: each of its records carries a CRC-32, which reading checks. The
archive's directory carries none, and torch believes it (one flipped bit, and a tensor is whatever was in memory), so
torch is given a new archive of the records that were checked.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from dust2gold.core.errors import InputError, reason
from dust2gold.core.files import sha256_of, write_bytes_atomically, write_json

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
FINISHED = "finished.json"

_OF_A_RUN = {"global_step", "pytorch-lightning_version", "state_dict"}
"""What every checkpoint holds."""
_BROKEN_ARCHIVE = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, struct.error, zlib.error)
"""What zipfile makes of a broken archive, according to where it is broken."""


class DamagedCheckpointError(InputError):
    """A checkpoint that is not as it was written."""


class CheckedCheckpoints(TorchCheckpointIO):
    """Lightning's reader and writer of checkpoints, made safe against kills, full disks, bit rot and pickled code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Replaces `path` in one step or not at all. Of `last.ckpt` the one before stays, as `previous.ckpt`."""
        buffer = io.BytesIO()  # torch's own writer reports a full disk as a RuntimeError
        torch.save(checkpoint, buffer)
        path = Path(path)
        if path.name == LAST and path.is_file():
            _keep(path, path.with_name(PREVIOUS))
        write_bytes_atomically(path, buffer.getvalue())

    def load_checkpoint(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Reads a checkpoint onto the CPU, see `read_checkpoint`."""
        return read_checkpoint(Path(path))


def use_checked_checkpoints(trainer: L.Trainer) -> None:
    """Makes a Trainer read and write its checkpoints this way, unless it was given a way of its own."""
    strategy: Any = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = CheckedCheckpoints()


def checkpoint_directory(trainer: L.Trainer) -> Path:
    """Where a run's checkpoints lie, whatever the logger's version."""
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
        with path.open("rb") as content:
            checked = _checked(content)
    except PermissionError:
        raise
    except _BROKEN_ARCHIVE as error:
        raise _damaged(path, f"it is truncated or no checkpoint ({error})") from error
    try:
        checkpoint = torch.load(checked, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        problem = "the checkpoint holds more than tensors and plain values: reading it could run code, so it is refused"
        remedy = "use a checkpoint that dust2gold wrote, from a source you trust"
        raise InputError(problem, file=path, remedy=remedy) from error
    except (RuntimeError, ValueError, EOFError) as error:
        raise _damaged(path, reason(error)) from error
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= _OF_A_RUN:
        raise _damaged(path, "it is no checkpoint of a run")
    return checkpoint


def _checked(content: BinaryIO) -> BinaryIO:
    """A new archive of an archive's records, each of which agrees with its checksum."""
    fresh = io.BytesIO()
    with zipfile.ZipFile(content) as archive, zipfile.ZipFile(fresh, "w") as copy:
        for record in archive.infolist():
            if record.filename in copy.NameToInfo:
                raise zipfile.BadZipFile(f"'{record.filename}' is there twice")
            copy.writestr(record.filename, archive.read(record))
    fresh.seek(0)
    return fresh


def mark_finished(directory: Path) -> None:
    """Records that the training of `last.ckpt` came to its end; another `last.ckpt` voids the record."""
    write_json(directory / FINISHED, {"sha256": sha256_of(directory / LAST)})


def is_finished(directory: Path) -> bool:
    """Whether the training of `last.ckpt` came to its end."""
    try:
        record = json.loads((directory / FINISHED).read_text(encoding="utf-8"))
        return bool(record["sha256"] == sha256_of(directory / LAST))
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
    remedy = f"give --ckpt_path another one, e.g. {path.with_name(PREVIOUS)}, or start over with --ckpt_path none"
    return DamagedCheckpointError(f"the checkpoint is damaged: {what}", file=path, remedy=remedy)
