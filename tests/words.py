"""The command lines of tests: a stage's verb on the CPU, and own stages for `run`."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
CPU = "--trainer.accelerator cpu --trainer.enable_progress_bar false"


def stage_words(verb: str, config: str, student: object, root: object, more: str = "", *exact: str) -> list[str]:
    """`verb --config configs/<config>.yaml` on a student, into `root`; `more` is split at spaces, `exact` is not."""
    name = "--model.backbone.init_args.student" if config == "rank" else "--model.student"
    words = f"{verb} --config {REPOSITORY}/configs/{config}.yaml {name} {student} {CPU} {more}".split()
    return [*words, "--trainer.default_root_dir", str(root), *exact]
