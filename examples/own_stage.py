"""A stage of your own beside the method's: NCE answers the test questions again, with longer answers.

    python cli.py run --config configs/demo.yaml --stages examples/own_stage.py

Commands are written as in a shell (`shlex.quote` what may hold blanks); outputs lie in the run directory. A dataclass
`Settings(RunSettings)` in this file would add settings of your own, for the config and for `--set`.
"""

from dust2gold.run.method import Commands
from dust2gold.run.settings import RunSettings
from dust2gold.run.stage import Stage
from dust2gold.run.tables import run_stages


def stages(settings: RunSettings) -> list[Stage]:
    """The method's stages, and `nce-long`, a row of the report like any other."""
    make = Commands(settings)
    test = make.test("nce", f"{make.run}/nce/adapter", f"{make.run}/nce-long")
    long = Stage(
        "nce-long",
        "NCE with longer answers",
        commands=(f"{test} --model.sampling.max_new_tokens 160",),
        needs=("data", "nce"),
        outputs=("nce-long/predictions.jsonl",),
    )
    return [*run_stages(settings), long]
