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

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.components.grading.answers import extract_answer
from dust2gold.core.configs import find_config, read_yaml
from dust2gold.core.errors import InputError

_HOLE = "{question}"
_KEYS = ("instructions", "ask", "stop", "shots")
_SHOT_KEYS = ("question", "rationale")

Message = dict[str, str]


@dataclass(frozen=True)
class Shot:
    """One solved example."""

    question: str
    rationale: str


@dataclass(frozen=True)
class FewShotPrompt:
    """A prompt with a hole for the question.

    Attributes:
        instructions: What to do; may be "".
        ask: How a question is put, with `{question}` in it.
        stop: Texts that end a sample; a server takes at most four.
        shots: Solved examples, in order.
    """

    instructions: str
    ask: str
    stop: tuple[str, ...]
    shots: tuple[Shot, ...]

    def messages(self, question: str) -> list[Message]:
        """The prompt for a question as a conversation."""
        system = [_message("system", self.instructions)] if self.instructions else []
        solved = [
            message
            for shot in self.shots
            for message in (_message("user", self._asked(shot.question)), _message("assistant", shot.rationale))
        ]
        return [*system, *solved, _message("user", self._asked(question))]

    def text(self, question: str) -> str:
        """The prompt for a question as one text, to be continued."""
        solved = [f"{self._asked(shot.question)}\n{shot.rationale}" for shot in self.shots]
        return "\n\n".join([*filter(None, [self.instructions]), *solved, self._asked(question)]) + "\n"

    def _asked(self, question: str) -> str:
        return self.ask.replace(_HOLE, question)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def load_prompt(path: Path) -> FewShotPrompt:
    """Reads a prompt file; `configs/prompts/math.yaml` names ours wherever the working directory is.

    Raises:
        InputError: If it is missing, not YAML, has another key, no place for the question, or a shot states no answer.
    """
    path = find_config(str(path))
    value = read_yaml(path)

    def error(field: str | None, problem: str, remedy: str) -> InputError:
        return InputError(problem, file=path, field=field, remedy=remedy)

    def text(values: Mapping[str, Any], key: str, where: str = "", default: str | None = None) -> str:
        found = values.get(key, default)
        if not isinstance(found, str) or (default is None and not found.strip()):
            problem = "is missing" if found is None else "a text was expected, not empty"
            raise error(where + key, problem, "see configs/prompts/math.yaml")
        return found.strip()

    _only(value, _KEYS, path, "")
    ask = text(value, "ask", default=f"Problem:\n{_HOLE}\n\nSolution:")
    if ask.count(_HOLE) != 1:
        raise error("ask", f"must hold {_HOLE} once", f'e.g. ask: "Problem:\\n{_HOLE}\\n\\nSolution:"')
    stop = value.get("stop", [])
    if not isinstance(stop, list) or not all(isinstance(word, str) and word for word in stop):
        raise error("stop", "a list of texts was expected", 'e.g. stop: ["\\nProblem:"]')
    shots = value.get("shots", [])
    if not isinstance(shots, list):
        raise error("shots", "a list was expected", "one `- question:` and `rationale:` each")
    solved = []
    for number, shot in enumerate(shots, 1):
        where = f"shots.{number}"
        _only(shot, _SHOT_KEYS, path, where)
        solved.append(Shot(text(shot, "question", f"{where}."), text(shot, "rationale", f"{where}.")))
        if not extract_answer(solved[-1].rationale):
            problem = "states no answer"
            raise error(f"{where}.rationale", problem, r"end it with the answer in \boxed{}: the model does as shown")
    return FewShotPrompt(text(value, "instructions", default=""), ask, tuple(stop), tuple(solved))


def _only(value: Any, keys: tuple[str, ...], path: Path, where: str) -> None:
    if not isinstance(value, dict):
        remedy = f"write {' and '.join(f'`{key}:`' for key in keys)} under it"
        raise InputError(
            f"a mapping was expected, found {type(value).__name__}", file=path, field=where or None, remedy=remedy
        )
    for key in value:
        if key not in keys:
            field = ".".join(filter(None, [where, str(key)]))
            raise InputError("unknown key", file=path, field=field, remedy=f"the keys here are {', '.join(keys)}")
