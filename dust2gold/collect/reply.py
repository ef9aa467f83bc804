"""What an endpoint's answer must look like, and what we take from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datamodules.components.records.records import is_text

_TOO_MANY = 1 << 40  # tokens: no count of them


class MalformedReplyError(Exception):
    """The endpoint's answer is not what the API promises; asking again may help."""


@dataclass(frozen=True)
class Choice:
    """One sample.

    Attributes:
        text: What the model wrote, without surrounding blanks; "" where it wrote nothing (a refusal, a filter, a
            reasoning model that spent its tokens thinking).
        finish: Why it ended: "stop", "length" (cut off at max_tokens), "content_filter", or "" if the server keeps it.
    """

    text: str
    finish: str


@dataclass(frozen=True)
class Reply:
    """One answer of the endpoint.

    Attributes:
        choices: The samples; there may be fewer or more than asked for.
        prompt_tokens: Tokens read, None if the server did not count.
        completion_tokens: Tokens written, of all samples together; None if the server did not count.
        model: Which model answered, by the server's account ("gpt-3.5-turbo-0125"); "" if it does not say.
    """

    choices: tuple[Choice, ...]
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str = ""


def parse_reply(body: Any, api: str) -> Reply:
    """Reads the decoded JSON of an answer.

    Args:
        body: What the server sent.
        api: "chat" or "completions".

    Raises:
        MalformedReplyError: If it holds no list of choices, or one of them no place for a text.
    """
    if not isinstance(body, dict):
        raise MalformedReplyError(f"a JSON object was expected, found {type(body).__name__}")
    choices = body.get("choices")
    if not isinstance(choices, list):
        raise MalformedReplyError("no list of `choices`")
    if not choices:
        raise MalformedReplyError("an empty list of `choices`")
    usage = body.get("usage")
    counts: Mapping[str, Any] = usage if isinstance(usage, dict) else {}
    return Reply(
        tuple(_choice(choice, api) for choice in choices),
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
        body["model"] if is_text(body.get("model")) else "",
    )


def _choice(value: Any, api: str) -> Choice:
    if not isinstance(value, dict):
        raise MalformedReplyError("a choice is no object")
    holder, key = (value.get("message"), "content") if api == "chat" else (value, "text")
    if not isinstance(holder, dict) or key not in holder:
        raise MalformedReplyError(f"a choice without `{'message.content' if api == 'chat' else key}`")
    text = holder[key]
    if text is None:
        text = ""
    if not is_text(text):
        raise MalformedReplyError(f"a choice whose `{key}` is no text")
    finish = value.get("finish_reason")
    return Choice(text.strip(), str(finish) if is_text(finish) else "")


def _count(value: Any) -> int | None:
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _TOO_MANY
    return value if usable else None
