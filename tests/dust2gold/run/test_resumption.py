"""What `fit` takes for the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.checkpoint_files import LAST
from callbacks.checkpoints import SETTINGS_KEY
from dust2gold.run.resumption import find_checkpoint, run_settings

RUN = {"global_step": 7, "pytorch-lightning_version": "2.6.6", "state_dict": {}}


def settings(**cache: Any) -> dict[str, str]:
    places = {"storage": "float16", "top_k": 64, "directory": None, **cache}
    return run_settings({"model": {"class_path": "NceModel", "init_args": {"cache": places}}, "trainer": {}})


@pytest.mark.parametrize(
    ("cache", "same"), [({"directory": "elsewhere"}, True), ({"storage": "top_k"}, False), ({"top_k": 32}, False)]
)
def test_what_a_teacher_s_cache_keeps_counts_and_where_it_lies_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: dict[str, Any], same: bool
) -> None:
    torch.save({**RUN, SETTINGS_KEY: settings()}, tmp_path / LAST)
    assert (find_checkpoint(tmp_path, settings(**cache)) is not None) == same
    said = capsys.readouterr().err
    assert said.startswith("resuming from step 7" if same else "beginning anew")
    assert same or f"(model.cache.{next(iter(cache))})" in said


def test_a_checkpoint_that_says_nothing_of_the_cache_is_gone_on_from(tmp_path: Path) -> None:
    then = {name: value for name, value in settings().items() if "cache" not in name}
    torch.save({**RUN, SETTINGS_KEY: then}, tmp_path / LAST)
    assert find_checkpoint(tmp_path, settings()) == tmp_path / LAST
