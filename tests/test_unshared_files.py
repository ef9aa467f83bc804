"""Machines that do not share a file system: what is found there and what is not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dust2gold import cli
from tests.records import write_positive
from tests.together import together

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

REPOSITORY = Path(__file__).parents[1]


def test_a_checkpoint_that_one_machine_cannot_see(tiny_student: Path, tmp_path: Path) -> None:
    """Each process has a disk of its own: `disk-<rank>`."""
    train, validation = write_positive(tmp_path / "t.jsonl", 8), write_positive(tmp_path / "v.jsonl", 3, 1)

    def fit(*more: str) -> list[int]:
        def work() -> int:
            root = tmp_path / f"disk-{os.environ['RANK']}"
            root.mkdir(exist_ok=True)
            return cli.main(
                [
                    *f"fit --config {REPOSITORY}/configs/neg.yaml".split(),
                    *f"--config {REPOSITORY}/configs/trainer/ddp.yaml --model.student {tiny_student}".split(),
                    *f"--data.train {train} --data.validation {validation} --data.batch_size 4".split(),
                    *"--trainer.max_epochs 2 --trainer.accelerator cpu --trainer.devices 2".split(),
                    *"--trainer.precision 32-true --trainer.enable_progress_bar false".split(),
                    *f"--trainer.default_root_dir {root}".split(),
                    *"--trainer.callbacks+=callbacks.checkpoints.RunCheckpoint".split(),
                    *"--trainer.callbacks.every_n_train_steps=1".split(),
                    *more,
                ]
            )

        return together(work, tmp_path / "logs")

    def said() -> str:
        return "".join((tmp_path / "logs" / str(rank) / "log").read_text(encoding="utf-8") for rank in range(2))

    stop = ["--trainer.callbacks+=tests.interruptions.Signal", "--trainer.callbacks.after=3"]
    assert fit(*stop) == [143, 143]
    assert (tmp_path / "disk-0/checkpoints/last.ckpt").is_file()
    assert not (tmp_path / "disk-1/checkpoints/last.ckpt").exists()
    assert fit() == [1, 1]
    assert "ranks 1 see another checkpoint than rank 0, or none\n  put trainer.default_root_dir" in said()
    shutil.copytree(tmp_path / "disk-0/checkpoints", tmp_path / "disk-1/checkpoints", dirs_exist_ok=True)
    assert fit() == [0, 0]
    assert "resuming from step 3" in said()
    assert len(load_file(tmp_path / "disk-0/adapter-last/adapter_model.safetensors")) >= 8
    assert not (tmp_path / "disk-1/adapter-last").exists()  # rank 0 writes the results
