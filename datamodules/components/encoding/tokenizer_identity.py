"""Whether two tokenizers give texts the same ids, wherever their files lie."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.components.encoding.tokenization import load_tokenizer, opening_of
from dust2gold.core.errors import InputError
from dust2gold.core.provenance import short_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WITHOUT_EFFECT = ("version", "truncation", "padding", "decoder")
"""Parts of a tokenizer's state that change no id; the second and third are left behind by its last call."""


@dataclass(frozen=True)
class TokenizerIdentity:
    """What a tokenizer is known by, in adapters and checkpoints."""

    name: str  # of its student: a hub name, or the last part of a directory's path
    ids: str  # a hash of all that decides which ids a text gets

    @classmethod
    def of(cls, name: str, tokenizer: PreTrainedTokenizerBase) -> TokenizerIdentity:
        """That of a tokenizer that was loaded under a name."""
        fast = getattr(tokenizer, "backend_tokenizer", None)
        state: dict[str, Any] = {"vocabulary": tokenizer.get_vocab()} if fast is None else json.loads(fast.to_str())
        decides = {part: value for part, value in state.items() if part not in _WITHOUT_EFFECT}
        shown = Path(name).expanduser()
        return cls(
            shown.resolve().name if shown.is_dir() else name,
            short_hash([opening_of(tokenizer), tokenizer.eos_token_id, decides]),
        )

    @classmethod
    def of_student(cls, student: str) -> TokenizerIdentity | None:
        """That of a student's own tokenizer; None if it brings none."""
        try:
            return cls.of(student, load_tokenizer(student))
        except InputError:
            return None

    def to_json(self) -> dict[str, str]:
        """For a manifest or a checkpoint."""
        return asdict(self)

    def check(self, trained_with: object, what: str, file: Path | None = None) -> None:
        """Refuses what another tokenizer was used to train, as `to_json` noted it; says so where nobody can know.

        `what` names it in words.

        Raises:
            InputError: If the tokenizers differ, or the entry is damaged.
        """
        if trained_with is None:
            known = f"does not say which tokenizer it was trained with: '{self.name}' is taken"
            print(f"{file or what}: {known}", file=sys.stderr)
            return
        try:
            before = TokenizerIdentity(**trained_with)  # type: ignore[arg-type]  # which is what is tried
        except TypeError as error:
            raise InputError(f"{what} has a damaged tokenizer entry", file=file, remedy="train it again") from error
        if before.ids != self.ids:
            raise InputError(
                f"{what} was trained with another tokenizer, '{before.name}' ({before.ids[:6]}), than data.tokenizer, "
                f"'{self.name}' ({self.ids[:6]}): texts have other ids",
                file=file,
                field="data.tokenizer",
                remedy=f"give --data.tokenizer the student '{before.name}' as it was then, or train again",
            )
