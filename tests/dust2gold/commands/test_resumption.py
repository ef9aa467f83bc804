"""What `fit` takes for the same run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.checkpoint_files import LAST
from callbacks.checkpoints import PROVENANCE_KEY
from dust2gold.commands.resumption import find_checkpoint, fit_provenance
from dust2gold.core.provenance import Provenance, version_of

Capture = pytest.CaptureFixture[str]

RUN = {"global_step": 7, "pytorch-lightning_version": "2.6.6", "state_dict": {}}


def made(processes: int = 1, accumulated: int = 1, **cache: Any) -> Provenance:
    model = {"class_path": "NceModel", "init_args": {"cache": {"storage": "float16", "directory": None, **cache}}}
    return fit_provenance({"model": model, "trainer": {"accumulate_grad_batches": accumulated}}, processes)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save({**RUN, PROVENANCE_KEY: dict(made(2, 4).facts)}, tmp_path / LAST)
    return tmp_path / LAST


@pytest.mark.parametrize(("cache", "same"), [({"directory": "elsewhere"}, True), ({"storage": "top_k"}, False)])
def test_what_counts_of_a_cache(checkpoint: Path, capsys: Capture, cache: dict[str, Any], same: bool) -> None:
    assert (find_checkpoint(checkpoint.parent, made(2, 4, **cache)) is not None) == same
    said = capsys.readouterr().err
    assert said.startswith("resuming from step 7" if same else "beginning anew")
    assert same or "(model.cache.storage); --ckpt_path last goes on all the same" in said


@pytest.mark.parametrize("verdicts", [None, "positive"])
def test_a_run_of_before_verdicts_were_asked_for_goes_on(tmp_path: Path, verdicts: str | None) -> None:
    data: dict[str, Any] = {"class_path": "RationaleDataModule", "init_args": {"batch_size": 4}}
    torch.save({**RUN, PROVENANCE_KEY: dict(fit_provenance({"data": data, "trainer": {}}).facts)}, tmp_path / LAST)
    data["init_args"]["verdicts"] = verdicts
    assert find_checkpoint(tmp_path, fit_provenance({"data": data, "trainer": {}})) is not None


def test_another_version_begins_anew(checkpoint: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dust2gold.core.provenance.version_of", lambda name: "0" if name == "peft" else version_of(name)
    )
    assert find_checkpoint(checkpoint.parent, made(2, 4)) is None
    assert "other settings (version of peft)" in capsys.readouterr().err
    assert find_checkpoint(checkpoint.parent, made(2, 4), others=True) == checkpoint
    assert "with other settings than it was trained with: version of peft" in capsys.readouterr().err


@pytest.mark.parametrize("split", [(8, 1), (1, 8), (4, 2)])
def test_a_step_may_be_shared_out_otherwise(checkpoint: Path, split: tuple[int, int]) -> None:
    assert find_checkpoint(checkpoint.parent, made(*split)) == checkpoint


def test_steps_of_another_size_alone_are_left_to_the_data_module_to_refuse(checkpoint: Path) -> None:
    assert find_checkpoint(checkpoint.parent, made(2, 8)) == checkpoint
    assert find_checkpoint(checkpoint.parent, made(2, 8, storage="top_k")) is None
