"""`fit`, `validate`, `test` and `predict`: LightningCLI in subclass mode, with messages a user can act on."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.checkpoint_files import LAST, checkpoint_directory, read_checkpoint, use_checked_checkpoints
from callbacks.checkpoints import RunCheckpoint
from callbacks.tensorboard import thread_failed
from dust2gold.commands.logs import ConfigWriter
from dust2gold.commands.resumption import find_checkpoint, fit_provenance
from dust2gold.commands.stage_defaults import TRAINER, import_stages, with_defaults
from dust2gold.core import locks
from dust2gold.core.config_errors import explained, readable_configs
from dust2gold.core.errors import InputError
from dust2gold.core.secret_options import check_options

_NOISE = (
    ".*does not have many workers.*",
    ".*LightningCLI's args parameter.*",
    ".*is_gradient_checkpointing.*",
    ".*number of training batches.*is smaller than the logging interval.*",
    ".*ended before the epoch ended and your dataloader is not resumable.*",  # it is: ResumableDataModule
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*LeafSpec.*",
    ".*custom batch sampler.*",  # ours shards by itself and is meant for prediction too
)


_STAGE_HELP = (
    "The options of a stage and of its data: dust2gold {verb} --model.help NegativeModel, dust2gold {verb} --data.help "
    "RationaleDataModule. The prompt: --data.prompt plain, chat or a file (docs/formats.md, text). Configs: "
    "configs/neg.yaml and its like; docs/method.md says which stage is which."
)
_CKPT_PATH_HELP = (
    "Checkpoint to go on from. By default that of an unfinished run with the same settings; same: of a finished one, "
    "too; last: the last one, whatever it was trained with (what has changed is named); none: begin anew; or a path."
)


class StageParser(LightningArgumentParser):
    """Shows configs with the defaults of their stage filled in, for `--print_config`."""

    def dump(self, cfg: Any, *args: Any, **kwargs: Any) -> str:
        """Writes a config as YAML."""
        return str(super().dump(with_defaults(cfg), *args, **kwargs))


class StageCLI(LightningCLI):
    """LightningCLI in subclass mode; `fit` goes on from where it was stopped, and errors have two lines."""

    def __init__(self, args: Sequence[str], run: bool = True) -> None:  # `run`: `args` begin with a command
        import_stages()
        quiet = {"exit_on_error": False}
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            trainer_defaults=TRAINER,
            save_config_callback=ConfigWriter,
            save_config_kwargs={"save_to_log_dir": False},
            parser_class=StageParser,
            parser_kwargs={**quiet, "prog": "dust2gold", **(dict.fromkeys(self.subcommands(), quiet) if run else {})},
            args=list(args),
            run=run,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what leaves out a default callback, and what chooses the adapter."""
        help_ = "Callbacks that stages have by default, by class name, for this one not to have: [SampleWriter]."
        parser.add_argument("--without_callbacks", type=list[str], default=[], help=help_)
        help_ = "What adapter/ holds: the weights of the best val/loss, or the last ones (reference)."
        parser.add_argument("--adapter", type=Literal["best", "last"], default="best", help=help_)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Says where the options of stages are, and what `fit --ckpt_path` takes here."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.epilog = _STAGE_HELP.format(verb=subcommand)
        for action in parser._actions:
            if subcommand == "fit" and action.dest == "ckpt_path":
                action.help = _CKPT_PATH_HELP
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line, and fills in what depends on the stage; no option may hold a key."""
        args = readable_configs(args)
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise explained(str(error), args) from error
        if verb := self.config.get("subcommand"):
            self.config[verb] = with_defaults(self.config[verb])
        else:
            self.config = with_defaults(self.config)
        check_options(self.config.as_dict())

    def instantiate_classes(self) -> None:
        """Makes the Trainer, the stage and its DataModule; what refuses its arguments says so in two lines."""
        try:
            super().instantiate_classes()
        except ValueError as error:  # jsonargparse wraps what a constructor raises
            raise explained(str(error), [str(self.subcommand)]) from error
        _check_launched(self.trainer.world_size)
        use_checked_checkpoints(self.trainer)

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs the verb. Of a failed writing the error has a place: streams that are closed do not know theirs."""
        try:
            with _alone_in_root(self.trainer):
                super()._run_subcommand(subcommand)
        except OSError as error:
            error.filename = error.filename or self.trainer.default_root_dir
            raise

    def _parse_ckpt_path(self) -> None:
        """Leaves the command line as it is: a checkpoint's own settings would override it without a word."""

    def before_fit(self) -> None:
        """Finds the checkpoint to go on from.

        Without `--ckpt_path` that of an unfinished run with the same settings; `same`: of a finished one, too; `last`:
        the last one whatever it was trained with; `none`: no checkpoint. Where there is none, `fit` begins anew.
        """
        options, directory = self.config_init.fit, checkpoint_directory(self.trainer)
        keepers = [each for each in self.trainer.callbacks if isinstance(each, RunCheckpoint)]  # type: ignore[attr-defined]
        made = fit_provenance(self.config.fit.as_dict(), self.trainer.world_size)
        for keeper in keepers:
            keeper.made = made
        if options.ckpt_path in ("last", "same") or (options.ckpt_path is None and keepers):
            finished, others = options.ckpt_path == "same", options.ckpt_path == "last"
            options.ckpt_path = find_checkpoint(directory, made, finished=finished, others=others)
        elif options.ckpt_path == "none":
            options.ckpt_path = None
        self._find_checkpoint("leave it out: fit goes on from where it was stopped")
        fresh = options.ckpt_path is None
        self._log_as_verb(0 if fresh else int(read_checkpoint(Path(options.ckpt_path))["global_step"]) + 1)

    def before_validate(self) -> None:
        """Finds the checkpoint, and tells the Trainer before stage and callbacks are set up: handed over it is late."""
        self._find_checkpoint()
        options = self.config_init[self.subcommand]
        self.trainer.ckpt_path, options.ckpt_path = options.ckpt_path, None
        # `predict` has no curves, and in one directory samples are drawn and then scored: both keep their texts.
        self._log_as_verb(None if self.subcommand == "predict" else 0)

    before_test = before_validate

    def before_predict(self) -> None:
        """Does the same, and without a list of all predictions: callbacks write them as they come."""
        self.before_validate()
        self.config_init.predict.return_predictions = False

    def _log_as_verb(self, step: int | None) -> None:
        """Logs, where no logger is given, to `<root>/<verb>`, from which TensorBoard calls the run.

        The same command again goes on there; what an earlier attempt had logged from `step` on, TensorBoard drops.
        """
        given = self.config[self.subcommand].trainer.logger
        if given in (None, True) and isinstance(self.trainer.logger, TensorBoardLogger):  # not with fast_dev_run
            root = self.trainer.default_root_dir
            self.trainer.logger = TensorBoardLogger(root, "", self.subcommand, purge_step=step)

    def _find_checkpoint(self, remedy: str = "leave it out: --model.adapter or --model.trained is enough") -> None:
        """Makes a path of `--ckpt_path last`; refuses one that is not there."""
        options = self.config_init[self.subcommand]
        if options.ckpt_path == "last":
            options.ckpt_path = str(checkpoint_directory(self.trainer) / LAST)
        if options.ckpt_path is not None and not Path(options.ckpt_path).exists():
            remedy = f"{remedy}, or give the path of a checkpoint"
            raise InputError("no such checkpoint", file=options.ckpt_path, field="ckpt_path", remedy=remedy)


@contextlib.contextmanager
def _alone_in_root(trainer: Trainer) -> Iterator[None]:
    """Keeps other commands out of the directory: they would replace each other's results. Rank 0 does it for all."""
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        yield
        return
    remedy = "wait for it or stop it, or choose another --trainer.default_root_dir"
    with locks.claim(Path(trainer.default_root_dir) / ".lock", "another command", remedy):
        yield


def _check_launched(processes: int) -> None:
    """Refuses to be one of several processes of torchrun that know nothing of each other and write the same files."""
    started = int(os.environ["WORLD_SIZE"]) if TorchElasticEnvironment.detect() else 1
    if processes == 1 < started:
        problem = f"torchrun has started {started} processes, and each would work alone"
        remedy = "give --trainer.devices as many as --nproc-per-node, --trainer.num_nodes as many as --nnodes"
        raise InputError(problem, field="trainer.devices", remedy=remedy)


def main(words: list[str]) -> int:
    """Runs one of the Trainer's commands; `words` begin with it."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    threading.excepthook = thread_failed
    try:
        StageCLI(words)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into `exit(1)`
            raise KeyboardInterrupt from error
        if isinstance(error, SIGTERMException):  # which carries no exit code, and so would pass for success
            raise SystemExit(128 + signal.SIGTERM) from error
        raise
    return 0
