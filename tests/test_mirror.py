"""Every source file has a test file of its name in the same place of `tests/`, or stands here with where it is."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("benchmarks", "callbacks", "datamodules", "dust2gold", "examples", "lightning_modules")

ELSEWHERE = {
    # Stages are their adapters and their loss: what they share is tested over all of them, baselines side by side.
    "lightning_modules/test_base": (
        "lightning_modules/nat",
        "lightning_modules/negative",
        "lightning_modules/trainable",
    ),
    "lightning_modules/test_baselines": (
        "lightning_modules/cl",
        "lightning_modules/dpo",
        "lightning_modules/kto",
        "lightning_modules/positive_negative",
        "lightning_modules/referenced",
        "lightning_modules/right_wrong",
    ),
    "lightning_modules/test_nce": ("lightning_modules/taught",),
    "datamodules/test_votes": ("lightning_modules/vote", "callbacks/predictions"),
    # One mechanism in several files is tested as a whole.
    "lightning_modules/components/adapters/test_stack": ("lightning_modules/components/adapters/manifest",),
    "lightning_modules/components/integration/test_unit": ("lightning_modules/components/integration/kernel",),
    "lightning_modules/components/losses/test_model_head": ("lightning_modules/components/evaluation",),
    "lightning_modules/components/sampling/test_decoder": (
        "lightning_modules/components/sampling/cache",
        "lightning_modules/components/sampling/slots",
    ),
    "lightning_modules/test_rank": (
        "lightning_modules/components/ranking/backbones",
        "lightning_modules/components/ranking/ranker",
    ),
    "callbacks/test_samples": ("callbacks/grading",),
    "callbacks/test_monitors": ("callbacks/calibration", "callbacks/tensorboard", "callbacks/throughput"),
    "dust2gold/demo/test_generate": ("dust2gold/demo/wording",),
    "dust2gold/report/test_write": (
        "dust2gold/report/analyses/accuracy_tables",
        "dust2gold/report/figures",
        "dust2gold/report/section",
        "dust2gold/report/shown",
        "dust2gold/report/training",
    ),
    # What only a whole process shows: resuming, signals, messages of the command line.
    "test_same_command": ("callbacks/checkpoints", "dust2gold/commands/trainer"),
    "dust2gold/commands/test_check": ("dust2gold/commands/disk", "dust2gold/commands/stand_ins"),
    "test_resume": ("callbacks/randomness",),
    "test_cli": ("dust2gold/cli", "dust2gold/commands/generate"),
    "test_bad_input": ("dust2gold/core/errors", "dust2gold/core/jsonl"),
    # Commands that parse arguments and call one function.
    "dust2gold/collect/test_settings": ("dust2gold/commands/collect",),
    "dust2gold/interchange/test_export": ("dust2gold/commands/export",),
    "dust2gold/interchange/test_preferences": ("dust2gold/commands/export_data", "dust2gold/commands/import_data"),
    "dust2gold/interchange/test_neighbours": ("dust2gold/commands/export_task",),
    "test_end_to_end": ("dust2gold/commands/report",),
    "dust2gold/run/test_method": ("examples/own_stage",),
    # The command is all of a study: what it keeps, goes on from and tabulates.
    "dust2gold/commands/test_study": (
        "dust2gold/study/cells",
        "dust2gold/study/records",
        "dust2gold/study/settings",
        "dust2gold/study/tables",
    ),
}
UNTESTED = {
    "dust2gold/demo/pretrain": "made the embedded student once, in an hour; its tokenizer is tests/students.py's",
    "benchmarks/grading": "measures; what it measures is tested, and --quick runs it in a minute",
    "benchmarks/sampling": "the same",
}


def sources() -> set[str]:
    files = (file for package in PACKAGES for file in (REPOSITORY / package).rglob("*.py"))
    return {str(file.relative_to(REPOSITORY).with_suffix("")) for file in files if file.name != "__init__.py"}


def has_own_test(source: str) -> bool:
    place = REPOSITORY / "tests" / source
    return place.with_name(f"test_{place.name}.py").is_file()


def test_every_source_file_has_its_test_file_or_a_reason() -> None:
    listed = [source for tested in ELSEWHERE.values() for source in tested] + list(UNTESTED)
    assert sorted(listed) == sorted(source for source in sources() if not has_own_test(source))


def test_the_places_named_are_there() -> None:
    assert [place for place in ELSEWHERE if not (REPOSITORY / "tests" / f"{place}.py").is_file()] == []
