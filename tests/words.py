"""The command lines of tests: a stage's verb on the CPU, and `collect`."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
CPU = "--trainer.accelerator cpu --trainer.enable_progress_bar false"


def stage_words(verb: str, config: str, student: object, root: object, more: str = "", *exact: str) -> list[str]:
    """`verb --config configs/<config>.yaml` on a student, into `root`; `more` is split at spaces, `exact` is not."""
    name = "--model.backbone.init_args.student" if config == "rank" else "--model.student"
    words = f"{verb} --config {REPOSITORY}/configs/{config}.yaml {name} {student} {CPU} {more}".split()
    return [*words, "--trainer.default_root_dir", str(root), *exact]


def collect_words(home: Path, asked: object, output: object, base_url: str, more: str) -> list[str]:
    """`collect` from an endpoint, with a prompt that it writes into `home`."""
    prompt = home / "prompt.yaml"
    prompt.write_text('instructions: Solve.\nask: "Problem: {question}"\n', encoding="utf-8")
    where = f"--endpoint.model m --endpoint.base_url {base_url} --endpoint.timeout 10"
    return f"collect --input {asked} --prompt {prompt} --output {output} {where} {more}".split()
