r"""The few-shot chain-of-thought prompt, read from a YAML file the user edits.

    instructions: Solve the problem step by step. Give the final answer in \boxed{}.
    ask: "Problem:\n{question}\n\nSolution:"
    shots:
      - question: What is 2 + 3?
        rationale: We add ... \boxed{5}

As a conversation, the instructions are the system's message, each shot one question of the user's and one answer of the
assistant's. As one text they follow one another, and `stop` keeps the model from inventing the next problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.components.grading.extraction import extract_answer
from dust2gold.core.configs import find_config, read_yaml
from dust2gold.core.errors import InputError

_PLACEHOLDER = "{question}"
_ASK = f"Problem:\n{_PLACEHOLDER}\n\nSolution:"
_KEYS = ("instructions", "ask", "stop", "shots")


class Shot(NamedTuple):
    """A solved example."""

    question: str
    rationale: str


@dataclass(frozen=True)
class FewShotPrompt:
    """A prompt with a placeholder for the question."""

    instructions: str  # what to do; may be ""
    ask: str  # how a question is put, with `{question}` in it
    stop: tuple[str, ...]  # texts that end a sample; a server takes at most four
    shots: tuple[Shot, ...]  # solved examples, in order

    def messages(self, question: str) -> list[dict[str, str]]:
        """The prompt for a question as a conversation."""
        turns = [("system", self.instructions)] if self.instructions else []
        for solved, rationale in self.shots:
            turns += [("user", self._put(solved)), ("assistant", rationale)]
        return [{"role": role, "content": content} for role, content in [*turns, ("user", self._put(question))]]

    def text(self, question: str) -> str:
        """The prompt for a question as one text, to be continued."""
        solved = [f"{self._put(question)}\n{rationale}" for question, rationale in self.shots]
        return "\n\n".join([*filter(None, [self.instructions]), *solved, self._put(question)]) + "\n"

    def _put(self, question: str) -> str:
        return self.ask.replace(_PLACEHOLDER, question)


def load_prompt(path: Path) -> FewShotPrompt:
    """Reads a prompt file; `configs/prompts/math.yaml` names ours wherever the working directory is.

    Raises:
        InputError: If it is missing, not YAML, has another key, no place for the question, or a shot states no answer.
    """
    path = find_config(str(path))
    value = read_yaml(path)
    _check_keys(value, _KEYS, path, "")
    ask = _text(value, "ask", path, default=_ASK)
    if ask.count(_PLACEHOLDER) != 1:
        remedy = f'e.g. ask: "Problem:\\n{_PLACEHOLDER}\\n\\nSolution:"'
        raise InputError(f"must hold {_PLACEHOLDER} once", file=path, field="ask", remedy=remedy)
    stop, shots = value.get("stop", []), value.get("shots", [])
    if not isinstance(stop, list) or not all(isinstance(word, str) and word for word in stop):
        raise InputError("a list of texts was expected", file=path, field="stop", remedy='e.g. stop: ["\\nProblem:"]')
    if not isinstance(shots, list):
        remedy = "one `- question:` and `rationale:` each"
        raise InputError("a list was expected", file=path, field="shots", remedy=remedy)
    solved = []
    for number, shot in enumerate(shots, 1):
        prefix = f"shots.{number}."
        _check_keys(shot, Shot._fields, path, prefix)
        solved.append(Shot(*(_text(shot, key, path, prefix) for key in Shot._fields)))
        if not extract_answer(solved[-1].rationale):
            remedy = r"end it with the answer in \boxed{}: the model does as shown"
            raise InputError("states no answer", file=path, field=f"{prefix}rationale", remedy=remedy)
    return FewShotPrompt(_text(value, "instructions", path, default=""), ask, tuple(stop), tuple(solved))


def _text(values: dict[str, Any], key: str, path: Path, prefix: str = "", default: str | None = None) -> str:
    found = values.get(key, default)
    if not isinstance(found, str) or (default is None and not found.strip()):
        problem = "is missing" if found is None else "a text was expected, not empty"
        raise InputError(problem, file=path, field=prefix + key, remedy="see configs/prompts/math.yaml")
    return found.strip()


def _check_keys(value: Any, keys: Sequence[str], path: Path, prefix: str) -> None:
    remedy = f"the keys here are {', '.join(keys)}"
    if not isinstance(value, dict):
        problem = f"a mapping was expected, found {type(value).__name__}"
        raise InputError(problem, file=path, field=prefix.rstrip(".") or None, remedy=remedy)
    for key in value:
        if key not in keys:
            raise InputError("unknown key", file=path, field=f"{prefix}{key}", remedy=remedy)
