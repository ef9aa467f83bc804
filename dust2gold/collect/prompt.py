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

from dataclasses import dataclass
from pathlib import Path

from datamodules.components.grading.extraction import extract_answer
from dust2gold.core.config_errors import parse_options
from dust2gold.core.configs import find_config
from dust2gold.core.errors import InputError

_PLACEHOLDER = "{question}"


@dataclass(frozen=True)
class Shot:
    """A solved example."""

    question: str
    rationale: str


@dataclass(frozen=True)
class FewShotPrompt:
    """A prompt with a placeholder for the question."""

    instructions: str = ""  # what to do
    ask: str = f"Problem:\n{_PLACEHOLDER}\n\nSolution:"  # how a question is put
    stop: tuple[str, ...] = ()  # texts that end a sample; a server takes at most four
    shots: tuple[Shot, ...] = ()  # solved examples, in order

    def messages(self, question: str) -> list[dict[str, str]]:
        """The prompt for a question as a conversation."""
        turns = [("system", self.instructions)] if self.instructions else []
        for shot in self.shots:
            turns += [("user", self._put(shot.question)), ("assistant", shot.rationale)]
        return [{"role": role, "content": content} for role, content in [*turns, ("user", self._put(question))]]

    def text(self, question: str) -> str:
        """The prompt for a question as one text, to be continued."""
        solved = [f"{self._put(shot.question)}\n{shot.rationale}" for shot in self.shots]
        return "\n\n".join([*filter(None, [self.instructions]), *solved, self._put(question)]) + "\n"

    def _put(self, question: str) -> str:
        return self.ask.replace(_PLACEHOLDER, question)


def load_prompt(path: Path) -> FewShotPrompt:
    """Reads a prompt file; `configs/prompts/math.yaml` names ours wherever the working directory is.

    Raises:
        InputError: If it is missing, malformed, has no place for the question, or a shot states no answer.
    """
    from jsonargparse import ArgumentParser  # which takes a while: `--help` need not wait for it

    file = find_config(str(path))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(FewShotPrompt)
    try:
        given = parser.instantiate(parse_options(parser, ["collect", "--config", str(file)]))
    except InputError as error:
        remedy = "see configs/prompts/math.yaml"
        raise InputError(error.problem, file=file, line=error.line, field=error.field, remedy=remedy) from error
    shots = tuple(Shot(shot.question.strip(), shot.rationale.strip()) for shot in given.shots)
    if given.ask.count(_PLACEHOLDER) != 1:
        remedy = f'e.g. ask: "Problem:\\n{_PLACEHOLDER}\\n\\nSolution:"'
        raise InputError(f"must hold {_PLACEHOLDER} once", file=file, field="ask", remedy=remedy)
    for number, shot in enumerate(shots, 1):
        if not extract_answer(shot.rationale):
            remedy = r"end it with the answer in \boxed{}: the model does as shown"
            raise InputError("states no answer", file=file, field=f"shots.{number}.rationale", remedy=remedy)
    return FewShotPrompt(given.instructions.strip(), given.ask.strip(), given.stop, shots)
