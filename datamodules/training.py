"""What all stages share that train on rationales: their files, limits and splits, as tables of token ids."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch.trainer.states import TrainerFn

from datamodules.components.batching.groups import Grouping
from datamodules.components.encoding.prompts import PLAIN, Prompt, make_prompt
from datamodules.components.encoding.tokenization import context_of, embedding_rows_of, load_tokenizer
from datamodules.components.encoding.tokenizer_identity import TokenizerIdentity
from datamodules.components.labels import Labels, Verdicts, check_both, check_verdicts
from datamodules.components.limits import Limits
from datamodules.components.table import Examples, open_table
from datamodules.resumable import ResumableDataModule
from dust2gold.core.errors import InputError
from dust2gold.core.files import as_paths
from dust2gold.core.students import EMBEDDED

_Groups = TypeVar("_Groups", bound=Grouping)


class TrainingDataModule(ResumableDataModule):
    """Reads rationales to train on and to validate on.

    Args:
        tokenizer: The student whose it is: a directory, a hub name, or `embedded`. None: the stage's own student, which
            the command line fills in; elsewhere the embedded one.
        train: Files of rationales to train on (positive.jsonl, negative.jsonl, …), all of them.
        validation: Files of rationales to validate on; without them, `validation_fraction` of the training questions.
        validation_fraction: Share of the questions of `train` held out, chosen by a hash of their id.
        batch_size: Rationales a training batch and device (reference: 128 over 8 GPUs; NCE 8); with `packing`, rows.
        eval_batch_size: The same of a validation batch; default as `batch_size`.
        max_length: Most tokens of prompt and rationale together, in training; no limit on a question to answer.
        drop_longer: Leave out longer rationales, and say how many, instead of refusing.
        max_characters: Leave out rationales that have so many characters or more with question and headings, and say
            how many (reference: 1,600; NCE 1,200).
        verdicts: What the rationales must be: `positive` (right), `negative`, or `both`, some of each. None: what the
            stage trains on, which the command line fills in; elsewhere any.
        allow_ungradable: Train on rationales whose verdict is `ungradable` too.
        prompt: What stands around a question: `plain` (the paper's headings), `chat` (the tokenizer's chat template),
            or a file with `{question}` in it, taken as it stands. None: `chat` where there is a template, else `plain`.
        system: With `chat`, the system's message. None: what the template says without one.
        thinking: With `chat`, the template's own switch (`enable_thinking`). None: as the template says.
        cut_traces: Train on rationales without what stands before `</think>` in them.
        encoded: Directory to keep encoded rationales in: encoded once, and from then on mapped into memory by every
            process and run, instead of encoded and held by each.
        seed: Of the order of the batches.
        num_workers: Processes that collate batches.
    """

    def __init__(
        self,
        tokenizer: str | None = None,
        train: list[str] | str | None = None,
        validation: list[str] | str | None = None,
        *,
        validation_fraction: float = 0.05,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        max_length: int = 1024,
        drop_longer: bool = False,
        max_characters: int | None = None,
        verdicts: Verdicts | None = None,
        allow_ungradable: bool = False,
        prompt: str | None = None,
        system: str | None = None,
        thinking: bool | None = None,
        cut_traces: bool = False,
        encoded: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(seed, num_workers)
        self._files: list[tuple[Path, Examples]] = []  # of rationales, as they are read
        self.tokenizer_name = EMBEDDED if tokenizer is None else tokenizer
        self.train_files = as_paths(train)
        self.validation_files = as_paths(validation)
        self.validation_fraction = validation_fraction
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.max_length = max_length
        self.drop_longer = drop_longer
        self.max_characters = max_characters
        self.verdicts = verdicts
        self.allow_ungradable = allow_ungradable
        self.prompt_options = prompt, system, thinking, cut_traces
        self.encoded = None if encoded is None else Path(encoded)
        self.prompt: Prompt  # these from `setup` on
        self.train_examples: Examples
        self.validation_examples: Examples

    def prepare_data(self) -> None:
        """Encodes what `encoded` does not hold yet, in one process of a machine; the others wait until it is done."""
        training = self.trainer is not None and self.trainer.state.fn in (TrainerFn.FITTING, TrainerFn.VALIDATING)
        if self.encoded is not None and training:
            tokenizer = load_tokenizer(self.tokenizer_name)
            prompt = make_prompt(tokenizer, *self.prompt_options)
            for file in [*self.train_files, *self.validation_files]:
                open_table(tokenizer, file, self.encoded, prompt)

    def setup(self, stage: str) -> None:
        """Reads and encodes what the entry point needs.

        Raises:
            InputError: If a file is missing or damaged, holds nothing to use or rationales of other verdicts than the
                stage trains on, a rationale comes twice, or a text is too long.
        """
        self.read_tokenizer()
        if stage not in ("fit", "validate") or hasattr(self, "validation_examples"):
            return
        if not self.train_files:
            remedy = "give --data.train FILES (positive.jsonl, negative.jsonl, …)"
            raise InputError("nothing to train on", field="data.train", remedy=remedy)
        tables = [(file, self._open(file)) for file in [*self.train_files, *self.validation_files]]
        self._check_labels(tables)
        train = self._limited(tables[: len(self.train_files)])
        if self.verdicts == "both":
            check_both(train)
        if self.validation_files:
            held = self._limited(tables[len(self.train_files) :])
        else:
            train, held = train.split(self.validation_fraction)
        if len(held) and not len(train):
            problem, remedy = "all questions were held out for validation", "lower --data.validation_fraction"
            raise InputError(problem, field="data.validation_fraction", remedy=remedy)
        self.train_examples, self.validation_examples = train, held

    def read_tokenizer(self) -> None:
        """Loads the tokenizer and makes the prompt; `setup` does it first."""
        self.tokenizer = load_tokenizer(self.tokenizer_name)
        self.prompt = make_prompt(self.tokenizer, *self.prompt_options)
        if self.prompt_options[0] is None and self.prompt != PLAIN and self.rank_of_world()[0] == 0:
            about = "prompts are made by its chat template; --data.prompt plain gives the paper's"
            print(f"{self.tokenizer_name}: {about}", file=sys.stderr)

    @cached_property
    def tokenizer_identity(self) -> TokenizerIdentity:
        """What the tokenizer is known by, from `setup` on."""
        return TokenizerIdentity.of(self.tokenizer_name, self.tokenizer)

    @property
    def encoding(self) -> dict[str, Any]:
        """What adapters and checkpoints note of tokenizer and prompt, from `setup` on."""
        return {"tokenizer": self.tokenizer_identity.to_json(), "prompt": self.prompt.to_json()}

    def check_encoding(self, noted: Mapping[str, Any], what: str, file: Path | None = None) -> None:
        """Refuses what another tokenizer or prompt was used to train; says so where nobody can know.

        `noted` is what stands in its manifest or checkpoint, `what` names it in words.
        """
        self.tokenizer_identity.check(noted.get("tokenizer"), what, file)
        if noted:  # none is noted of an adapter of others
            self.prompt.check(noted.get("prompt"), what, file)

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, the tokenizer and the prompt."""
        return {**super().state_dict(), **self.encoding}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores where training stood; refuses what another tokenizer or prompt was used to train."""
        self.check_encoding(state_dict, "the checkpoint")
        super().load_state_dict(state_dict)

    def check_ids(self, student: str) -> None:
        """Refuses tokens that a student has no embedding of, as a tokenizer gives that was added to; after `setup`.

        Raises:
            InputError: If the tokenizer pads with one, or one stands in what is read.
        """
        rows, tokenizer = embedding_rows_of(student), self.tokenizer
        if rows is None or max(tokenizer.get_vocab().values()) < rows:
            return
        remedy = "take the tokenizer as the student was trained with it, or give the student an embedding of it first"
        padding = [(Path(self.tokenizer_name), None, int(tokenizer.pad_token_id))]
        for file, line, token in (*padding, *self.largest_ids()):
            if token >= rows:
                name = tokenizer.convert_ids_to_tokens(token)
                problem = f"token {name!r} has the id {token:,}, and the student's embedding has {rows:,} rows"
                raise InputError(problem, file=file, line=line, field="data.tokenizer", remedy=remedy)

    def largest_ids(self) -> Iterator[tuple[Path, int, int]]:
        """The largest token id of each text that is read, with its file and line."""
        for file, examples in self._files:
            for line, token in zip(examples.numbers("line").tolist(), examples.largest_ids.tolist(), strict=True):
                yield file, line, token

    def gradable(self, examples: Examples, file: Path) -> Examples:
        """The rationales of a file whose verdicts this stage can use.

        Raises:
            InputError: If one is ungradable, unless `allow_ungradable`.
        """
        ungradable = examples.where(examples.has_verdict("ungradable"))
        if len(ungradable) and not self.allow_ungradable:
            problem, line = f"'{ungradable[0].id}' is ungradable", int(ungradable.numbers("line")[0])
            remedy = "train on positive.jsonl or negative.jsonl, or give --data.allow_ungradable true"
            raise InputError(problem, file=file, line=line, field="verdict", remedy=remedy)
        return examples

    def grouped(self, group: Callable[[Examples], _Groups]) -> tuple[_Groups, _Groups]:
        """Groups of the training and of the validation examples; refuses data without a question of both verdicts."""
        train, held = group(self.train_examples), group(self.validation_examples)
        train.require_both_verdicts("train")
        if self.validation_files:  # a small fraction of few questions may hold none: then there is no validation
            held.require_both_verdicts("validation")
        return train, held

    def require_some(self, examples: Examples, file: Path) -> None:
        """Refuses a file of which the limits leave nothing."""
        if not len(examples):
            too_long = "all are too long: raise --data.max_length or --data.max_characters"
            empty = "check summary.json beside it: the teacher may have no right or no wrong samples"
            raise InputError(
                "holds no rationale to train on", file=file, remedy=too_long if file.stat().st_size else empty
            )

    def _open(self, file: Path) -> Examples:
        return Examples(open_table(self.tokenizer, file, self.encoded, self.prompt))

    def _check_labels(self, files: list[tuple[Path, Examples]]) -> None:
        for file, examples in files:
            check_verdicts(examples, self.verdicts, file)
        labels = Labels(files)
        labels.check_unique()
        if self.rank_of_world()[0] == 0:
            labels.report_contradictions()

    def _limited(self, files: list[tuple[Path, Examples]]) -> Examples:
        """The rationales of files that may be used, joined."""
        context, headings = context_of(self.tokenizer_name), len(self.prompt.ask(""))
        limits = Limits(self.max_length, self.drop_longer, context, self.max_characters, headings)
        parts: list[Examples] = []
        for file, examples in files:
            parts.append(limits.apply(self.gradable(examples, file), file))
            self.require_some(parts[-1], file)
            self._files.append((file, parts[-1]))
        limits.report()
        return Examples.joined(parts)
