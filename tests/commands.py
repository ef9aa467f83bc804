"""Command lines, parsed as the verb would parse them, and not run."""

import lightning as L

from dust2gold import cli
from dust2gold.commands.trainer import StageCLI


class _Parsed(StageCLI):
    def instantiate_classes(self) -> None:
        self.trainer = L.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)

    def _run_subcommand(self, subcommand: str) -> None: ...


def parse(words: list[str]) -> StageCLI | None:
    """Parses a command line. Of `fit`, `validate`, `test` and `predict` it returns what holds the `config`."""
    if words[0] in cli.TRAINER_VERBS:
        return _Parsed(words)
    cli.parse(cli.module_of(words[0]), words)
    return None
