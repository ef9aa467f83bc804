"""The text around a question and its rationale: the paper's, a tokenizer's chat template, or a file's.

prompt = make_prompt(tokenizer, "chat", system=None, thinking=False)
prompt.before + question + prompt.after         # what the student is asked
prompt.target(rationale)                        # what it answers, up to the token that ends it
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dust2gold.core.errors import InputError, reason
from dust2gold.core.files import open_text
from dust2gold.core.provenance import short_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION, _RATIONALE = "\ue000question\ue000", "\ue000rationale\ue000"
"""What a chat template is shown in their places, to see what it puts around them."""
_OPEN, _CLOSE = "<think>", "</think>"
_OTHERS = "give --data.prompt plain, or a file with {question} in it"
_DATE = """\
{%- macro strftime_now(format) -%}
{{- format | replace("%d", "26") | replace("%b", "Jul") | replace("%B", "July") | replace("%m", "07") \
| replace("%Y", "2024") -}}
{%- endmacro %}{{ "" }}"""
"""Before a template that writes today's date, which would make another prompt each day: the date that Llama falls back
on. (The empty expression keeps the line breaks that a template begins with.)"""


@dataclass(frozen=True)
class Prompt:
    """What stands around a question and its rationale. Equal are prompts that give the same tokens."""

    kind: str = field(compare=False)  # plain, chat, or the name of a file
    before: str  # the question
    after: str  # it
    lead: str = ""  # white space that the template puts before an answer
    tail: str = ""  # what it puts between an answer and the token that ends it
    end: str = ""  # the spelling of that token; "": EOS
    opened: str = ""  # the end of `after` if that opens a `<think>` trace
    opening: bool = True  # whether BOS belongs before it, where the tokenizer has one
    strips: bool = False  # white space around the question
    system: str | None = field(default=None, compare=False)  # in `before`, too
    thinking: bool | None = field(default=None, compare=False)
    cut_traces: bool = field(default=False, compare=False)

    def ask(self, question: str) -> str:
        """The question with all that stands around it."""
        return f"{self.before}{question.strip() if self.strips else question}{self.after}"

    def written(self, rationale: str) -> str:
        """A rationale as it is trained on."""
        return rationale.rpartition(_CLOSE)[2].lstrip("\n") if self.cut_traces else rationale

    def target(self, rationale: str) -> str:
        """What follows `ask` in training, but for the token that ends it.

        Where the prompt opens a trace the rationale's own goes on from there; one without is given an empty trace.
        """
        text = self.written(rationale)
        if self.opened:
            start = next((start for start in (self.opened, _OPEN) if text.startswith(start)), None)
            text = f"\n{_CLOSE}\n\n{text}" if start is None else text.removeprefix(start)
        return f"{self.lead}{text}{self.tail}"

    def rationale(self, sampled: str) -> str:
        """The rationale in what a student has written after `ask`: `target`, undone."""
        return self.opened + sampled.removeprefix(self.lead).removesuffix(self.tail)

    def to_json(self) -> dict[str, Any]:
        """For a manifest or a checkpoint: what decides tokens, and how it was chosen."""
        return {name: value for name, value in asdict(self).items() if name != "cut_traces"}

    @property
    def key(self) -> str:
        """A hash of what decides tokens."""
        return short_hash([getattr(self, each.name) for each in fields(self) if each.compare])

    @classmethod
    def noted(cls, entry: object, what: str, file: Path | None = None) -> Prompt:
        """What `to_json` gave; of None PLAIN, as older versions knew no other.

        Raises:
            InputError: If the entry is damaged.
        """
        try:
            return PLAIN if entry is None else cls(**entry)  # type: ignore[arg-type]  # which is what is tried
        except TypeError as error:
            raise InputError(f"{what} has a damaged prompt entry", file=file, remedy="train it again") from error

    def check(self, trained_with: object, what: str, file: Path | None = None) -> None:
        """Refuses what was trained with another prompt, as its manifest or checkpoint notes it; `what` names it.

        Raises:
            InputError: If the prompts differ, or the entry is damaged.
        """
        before = Prompt.noted(trained_with, what, file)
        if before != self:
            options = f"--data.prompt {before.kind}"
            options += "" if before.system is None else f" --data.system '{before.system}'"
            options += "" if before.thinking is None else f" --data.thinking {str(before.thinking).lower()}"
            raise InputError(
                f"{what} was trained with another prompt, {before.kind} ({before.key[:6]}), than this one, "
                f"{self.kind} ({self.key[:6]})",
                file=file,
                field="data.prompt",
                remedy=f"give {options}, or train again",
            )


PLAIN = Prompt("plain", "Problem:\n", "\nSolution:\n")
"""The paper's (docs/method.md, data)."""


def make_prompt(
    tokenizer: PreTrainedTokenizerBase,
    name: str | None = None,
    system: str | None = None,
    thinking: bool | None = None,
    cut_traces: bool = False,
) -> Prompt:
    """The prompt of a name: `plain`, `chat`, a file with `{question}` in it; None: `chat` where there is a template.

    Raises:
        InputError: If the tokenizer has no template, or one that cannot be used so, or a file is no prompt.
    """
    chat = name == "chat" or (name is None and bool(tokenizer.chat_template))
    if not chat and (system is not None or thinking is not None):
        known = "data.system" if system is not None else "data.thinking"
        raise InputError(
            "is of the chat template alone", field=known, remedy="leave it out, or give --data.prompt chat"
        )
    if chat:
        return _of_template(tokenizer, system, thinking, cut_traces)
    return replace(text_prompt(name or PLAIN.kind), cut_traces=cut_traces)


def text_prompt(name: str) -> Prompt:
    """`plain`, or a file's text with `{question}` in it.

    Raises:
        InputError: If there is no such file, or it is no prompt.
    """
    if name == PLAIN.kind:
        return PLAIN
    file = Path(name).expanduser()
    try:
        with open_text(file) as stream:
            before, *after = stream.read().split("{question}")
    except (InputError, UnicodeDecodeError) as error:
        problem = error.problem if isinstance(error, InputError) else f"not UTF-8 ({reason(error)})"
        remedy = "give plain, chat, or a text file with {question} in it"
        raise InputError(problem, file=file, field="data.prompt", remedy=remedy) from error
    if len(after) != 1:
        problem, remedy = f"holds {{question}} {len(after)} times", "put it once, where the question belongs"
        raise InputError(problem, file=file, field="data.prompt", remedy=remedy)
    return Prompt(file.name, before, after[0])


def _of_template(
    tokenizer: PreTrainedTokenizerBase, system: str | None, thinking: bool | None, cut_traces: bool
) -> Prompt:
    """What a tokenizer's chat template puts around a user's question and the assistant's answer."""
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template", field="data.prompt", remedy=_OTHERS)
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns.append({"role": "user", "content": f" {_QUESTION} "})
    asked = _rendered(tokenizer, turns, thinking)
    if thinking is not None and asked == _rendered(tokenizer, turns, not thinking):
        remedy = "leave it out: the template has no such variable"
        raise InputError("changes nothing in the chat template", field="data.thinking", remedy=remedy)
    if system is not None and system.strip() not in asked:
        remedy = "leave it out, or put it into a file: --data.prompt FILE"
        raise InputError("the chat template leaves it out", field="data.system", remedy=remedy)
    whole = _rendered(tokenizer, [*turns, {"role": "assistant", "content": _RATIONALE}], thinking)
    if asked.count(_QUESTION) != 1 or whole.count(_RATIONALE) != 1:
        problem = "the chat template does not show question and answer once each"
        raise InputError(problem, field="data.prompt", remedy=_OTHERS)
    strips = f" {_QUESTION} " not in asked
    before, after = asked.split(_QUESTION if strips else f" {_QUESTION} ")
    until, rest = whole.split(_RATIONALE)
    lead = until.removeprefix(asked) if until.startswith(asked) else ""
    # Any added token: some tokenizers do not call special what ends a turn.
    ends = spelling_of(token.content for token in tokenizer.added_tokens_decoder.values()).search(rest)
    opened = re.search(rf"{_OPEN}\s*\Z", after)
    return Prompt(
        "chat",
        before,
        after,
        lead=lead if lead.isspace() else "",  # else an empty trace, or a header that the generation prompt leaves out
        tail=rest[: ends.start()] if ends else "",
        end=ends[0] if ends else "",
        opened=opened[0] if opened else "",
        opening=False,
        strips=strips,
        system=system,
        thinking=thinking,
        cut_traces=cut_traces,
    )


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], thinking: bool | None) -> str:
    """A conversation as the template writes it; one that ends with the user's turn asks for the answer."""
    variables: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
    asks = turns[-1]["role"] == "user"
    try:
        template = tokenizer.get_chat_template()
        variables["chat_template"] = _DATE + template if "strftime_now" in template else template
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks, **variables))
    except Exception as error:  # a template raises what it likes
        system = "" if len(turns) == 1 + (not asks) else ", with a system text"
        remedy = f"leave out --data.system, or {_OTHERS}" if system else _OTHERS
        problem = f"the chat template cannot be used{system} ({reason(error)})"
        raise InputError(problem, field="data.prompt", remedy=remedy) from error


def spelling_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches each of some tokens, of several at one place the longest; nothing where there is none."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")
