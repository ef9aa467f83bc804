"""Command lines, parsed as the verb would parse them, and not run."""

from __future__ import annotations

import argparse
from importlib import import_module

import lightning as L
from lightning import LightningDataModule, LightningModule

from dust2gold import cli
from dust2gold.commands.settings_cli import parse_settings, settings_parser
from dust2gold.commands.trainer import StageCLI


class _Parsed(StageCLI):
    def instantiate_classes(self) -> None:
        self.trainer = L.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)

    def _run_subcommand(self, subcommand: str) -> None: ...

    def before_instantiate_classes(self) -> None: ...


def parse(words: list[str]) -> StageCLI | None:
    """Parses a command line. Of `fit`, `validate`, `test` and `predict` it returns what holds the `config`."""
    if words[0] in cli.TRAINER_VERBS:
        parsed = _Parsed(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_kwargs={"exit_on_error": False, words[0]: {"exit_on_error": False}},
            args=words,
        )
        assert parsed.subcommand == words[0]
        return parsed
    verb = cli.VERBS[words[0]]
    add_arguments = getattr(import_module(verb.module), verb.add_arguments)
    if verb.settings:
        parse_settings(settings_parser(words[0], verb.help, add_arguments), words)
        return None
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    parser.parse_args(words[1:])
    return None
