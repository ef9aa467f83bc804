"""Reading checkpoints: whatever bit of one is flipped, what is read is what was written, or it is called damaged."""

import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.checkpoint_files import DamagedCheckpointError, read_checkpoint
from dust2gold.core.errors import InputError

ENTRY = b"PK\x01\x02"  # begins a record's entry in the archive's directory
ATTRIBUTES, NAME = 38, 46  # places in it

CHECKPOINT: dict[str, Any] = {"pytorch-lightning_version": "2.6.6", "global_step": 3, "loops": {}}
CHECKPOINT["state_dict"] = {f"w{k}": torch.arange(8.0) + k for k in range(3)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(CHECKPOINT, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def check_read(path: Path) -> None:
    got = read_checkpoint(path)
    assert got.keys() == CHECKPOINT.keys()
    assert all(torch.equal(value, got["state_dict"][name]) for name, value in CHECKPOINT["state_dict"].items())


def test_a_tensor_called_a_directory(path: Path) -> None:
    """torch reads no byte of it, and gives what happens to be in memory."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"last/data/1") - NAME
    assert content[entry : entry + 4] == ENTRY
    content[entry + ATTRIBUTES] ^= 16
    path.write_bytes(content)
    check_read(path)


def test_any_bit_of_the_directory(path: Path) -> None:
    content, chance = path.read_bytes(), random.Random(0)
    damaged = 0
    for place in range(content.index(ENTRY), len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            check_read(path)
        except DamagedCheckpointError:
            damaged += 1
    assert damaged > 100


def test_two_records_of_one_name(path: Path) -> None:
    content = path.read_bytes()
    begins = content.index(ENTRY)
    ends = content.rindex(b"PK\x06\x06")
    entries = content[begins:ends] * 2
    size = struct.pack("<Q", len(entries))
    footer = content[ends:].replace(struct.pack("<Q", ends - begins), size)
    path.write_bytes(content[:begins] + entries + footer)
    with pytest.raises(DamagedCheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [[1], {"a": 1}, 3])
def test_what_is_no_checkpoint_of_a_run(path: Path, value: Any) -> None:
    torch.save(value, path)
    with pytest.raises(InputError, match="no checkpoint of a run"):
        read_checkpoint(path)
