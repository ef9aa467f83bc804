"""`fit`, `validate`, `test` and `predict`: LightningCLI in subclass mode, with messages a user can act on."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from jsonargparse import ArgumentError
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from callbacks.checkpoints import checkpoint_directory
from foundation.errors import InputError

_NOISE = (
    ".*does not have many workers.*",
    ".*LightningCLI's args parameter.*",
    ".*is_gradient_checkpointing.*",
    ".*number of training batches.*is smaller than the logging interval.*",
    ".*ended before the epoch ended and your dataloader is not resumable.*",  # it is: ResumableDataModule
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*LeafSpec.*",
)


class StageCLI(LightningCLI):
    """LightningCLI with two additions: `--ckpt_path last` starts anew where there is none, predictions are not kept."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Sets defaults that differ from Lightning's."""
        if "return_predictions" in {action.dest for action in parser._actions}:
            parser.set_defaults({"return_predictions": False})  # callbacks write them as they come

    def before_fit(self) -> None:
        """Finds the checkpoint that `--ckpt_path last` means."""
        config = self.config.fit
        if config.ckpt_path == "last":
            last = checkpoint_directory(self.trainer) / "last.ckpt"
            config.ckpt_path = str(last) if last.is_file() else None


def run_trainer(words: list[str]) -> None:
    """Runs one of the Trainer's verbs.

    Args:
        words: The verb and its options.

    Raises:
        InputError: If an option or a config cannot be used.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    try:
        StageCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={verb: _parser_options() for verb in LightningCLI.subcommands()} | {"exit_on_error": False},
            args=words,
        )
    except ArgumentError as error:
        raise InputError(_shortened(str(error)), remedy=f"see dust2gold {words[0]} --help") from error


def _parser_options() -> dict[str, Any]:
    return {"exit_on_error": False}


def _shortened(message: str) -> str:
    """The telling lines of jsonargparse's message, without the list of everything else that did not match."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if "not accepted" in line or "Key " in line or "does not exist" in line]
    return (telling or lines)[0].rstrip(".") if lines else "cannot parse the command line"
