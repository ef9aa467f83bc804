r"""Where a rationale states its answer, and a data set's own solution the gold one.

`extract_answer` reads the two formats that data sets prescribe, `\boxed{18}` and `#### 18`; `stated_answer` also what
people write where nothing was prescribed: "The answer is 18." Of a text with a trace of thoughts what follows the last
`</think>` is read.
"""

from __future__ import annotations

import re

from datamodules.components.grading.answers import plain_number
from datamodules.components.grading.words import are_words

_BRACE = re.compile(r"[{}]")
_NOT_BLANK = re.compile(r"\S")
_END = re.compile(r"[$\n]")
_STATED = re.compile(
    r"\banswer[*_]*\s*(?:(?:is|was|equals)\b(?:\s+(?:therefore|thus|then)\b)?\s*:?|[:=])[*_\s]*(?P<answer>\S[^\n]*)",
    re.IGNORECASE,
)
"""From "answer is", "Final answer:" and "**Answer**:" up to the end of the line."""
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_THOUGHT = "</think>"
_LONGEST_BARE = 4  # words of a gold answer that stands alone, without a solution


def stated_answer(text: str, pattern: re.Pattern[str] | None = None) -> str | None:
    """The answer that a rationale states in any of the usual ways, as written; None if it states none.

    In this order: what the last match of `pattern` has in its first group, or matches; a box or `####`, as
    `extract_answer`; the rest of the sentence after the last "the answer is" or "Answer:".
    """
    text = text.rpartition(_THOUGHT)[2]
    if pattern is not None and (found := list(pattern.finditer(text))):
        return next((group for group in found[-1].groups() if group is not None), found[-1][0]).strip()
    answer = extract_answer(text)
    if answer:
        return answer
    stated = [found["answer"] for found in _STATED.finditer(text.rstrip())]
    if not stated:
        return answer
    sentence = _SENTENCE_END.split(stated[-1].strip(), maxsplit=1)[0]
    if _last_box(sentence) is not None:  # one that never closes: the text was cut there
        return answer
    return sentence.strip(" *_") or None


def extract_answer(text: str) -> str | None:
    r"""The answer that a rationale states, as written: what the last box with content holds, else what follows `####`.

    A box is `\boxed{...}` with balanced braces or `\boxed 5`; `\fbox` counts where there is no `\boxed`. After the last
    `####` stands an answer if it is a plain number or the text's last line: Markdown's headings begin in the same way.

    Returns:
        The answer without surrounding blanks ("" for an empty box), or None: no box, or one that never closes.
    """
    text = text.rpartition(_THOUGHT)[2]
    box = _last_box(text)
    if box is None:
        return _after_hashes(text)
    return box[0] or _after_hashes(text) or box[0]


def gold_answer(solution: str) -> str:
    r"""The gold answer of a data set's own solution, or of a field that holds it alone; "" if there is none.

    A box that is empty or has no braces is kept as written. MATH's 7,500 training solutions hold two of each
    (`\boxed{}`, `\boxed 9`). The reference implementation finds no gold answer there and counts all 32 samples as
    wrong, 7 of them unjustly. As written the gold answer equals no string either, which gives the paper's counts, while
    `canonical` and math-verify do read `\boxed 9`, and math-verify finds `\boxed{}` unreadable.
    """
    solution = solution.rpartition(_THOUGHT)[2]
    answer, box = extract_answer(solution), _last_box(solution)
    if answer is None:  # the field may hold the gold answer alone: "18"
        bare = box is None and len(solution.split()) <= _LONGEST_BARE
        return solution.strip() if bare else ""
    if box is None or box[0] != answer or (answer and box[1]):
        return answer
    return rf"\boxed {answer}" if answer else r"\boxed{}"


def _last_box(text: str) -> tuple[str | None, bool] | None:
    """What the last box holds that is not empty (None if it never closes), and whether it has braces. None: no box."""
    for command in ("\\boxed", "\\fbox"):
        last, start = None, text.rfind(command)
        while start >= 0:
            box = _content(text, start + len(command))
            if box[0] != "":
                return box
            last, start = last or box, text.rfind(command, 0, start)
        if last is not None:
            return last
    return None


def _content(text: str, start: int) -> tuple[str | None, bool]:
    r"""What a box holds whose command ends at `start`, None if its braces never close; and whether it has braces."""
    first = _NOT_BLANK.search(text, start)
    if first is not None and first[0] == "{":
        content = _braced(text, start)
        return (None if content is None else content.strip()), True
    content = _unbraced(text, start)  # `\boxed 5`; but in "write it in \boxed form" the command is only mentioned
    return ("" if are_words(content) and not any(map(str.isdigit, content)) else content), False


def _after_hashes(text: str) -> str | None:
    _, mark, rest = text.rpartition("####")
    line, _, below = rest.partition("\n")
    stated = mark and (not below.strip() or plain_number(line) is not None)
    return line.strip() if stated else None


def _braced(text: str, start: int) -> str | None:
    """What the next braces after `start` enclose; None if they never close."""
    depth = 0
    opening = text.index("{", start)
    for brace in _BRACE.finditer(text, opening):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[opening + 1 : brace.start()]
    return None


def _unbraced(text: str, start: int) -> str:
    r"""What `\boxed 5` boxes: all up to the end of the formula or the line."""
    end = _END.search(text, start)
    return text[start : end.start() if end else None].strip().rstrip(".,;")
