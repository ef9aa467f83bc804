"""A question's request, with everything its samples depend on, and the endpoint's reply to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from datamodules.components.records.records import Question, is_text
from dust2gold.collect.prompt import FewShotPrompt
from dust2gold.collect.settings import Endpoint, TeacherSampling
from dust2gold.core.provenance import short_hash
from dust2gold.core.text import visible

_TEMPLATE = 64  # tokens a server's chat template may add to a conversation
_TURN = 16  # and to each message of it
_TOO_MANY = 1 << 40  # tokens: no believable count
_OWN_END = ("", "stop", "stop_sequence", "end_turn", "eos", "eos_token")
"""What servers call it when the model itself ends; others cut a sample off: length, content_filter, error, …"""


@dataclass(frozen=True)
class Request:
    """The request for the samples of a question."""

    question_id: str
    api: str  # "chat" or "completions"
    body: dict[str, Any]  # its fields, without `n` and `seed`
    n: int  # samples wanted in the end; one request may ask for fewer
    max_tokens: int | None  # of each sample; None: no cap
    seed: int | None  # base seed; None: none is sent

    @property
    def key(self) -> str:
        """A hash of what the samples depend on: question, prompt, model, sampling. Not of where the model is."""
        return short_hash([self.question_id, self.api, self.body, self.seed])

    @property
    def longest_prompt(self) -> int:
        """No fewer tokens than the prompt has: every token but those of the chat template covers at least a byte."""
        if self.api == "completions":
            return len(self.body["prompt"].encode()) + _TURN
        return _TEMPLATE + sum(len(message["content"].encode()) + _TURN for message in self.body["messages"])

    def seed_of(self, ordinal: int) -> int | None:
        """The seed to send with the `ordinal`-th paid request for this: a fixed one would give the same samples."""
        if self.seed is None:
            return None
        digest = hashlib.blake2b(f"{self.seed}\0{ordinal}\0{self.key}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") >> 1


def build_request(question: Question, prompt: FewShotPrompt, endpoint: Endpoint, sampling: TeacherSampling) -> Request:
    """Makes the request for a question."""
    body: dict[str, Any] = {"model": endpoint.model, "temperature": sampling.temperature}
    if endpoint.api == "chat":
        body["messages"] = prompt.messages(question.question)
    else:
        body["prompt"] = prompt.text(question.question)
    if sampling.top_p < 1:
        body["top_p"] = sampling.top_p
    if sampling.max_tokens is not None:
        body[endpoint.token_limit] = sampling.max_tokens
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    body |= endpoint.parameters
    return Request(question.id, endpoint.api, body, sampling.n, sampling.max_tokens, sampling.seed)


@dataclass(frozen=True)
class Choice:
    """One sample."""

    text: str  # without surrounding blanks; "" after a refusal, a filter, or nothing but a reasoning model's thoughts
    finish: str  # "stop", "length" (cut off at max_tokens), "content_filter", or "" if the server does not say
    reasoning: str = ""  # a reasoning model's thoughts, where the server gives them apart

    def joined(self) -> Choice:
        """The sample with its thoughts before the text, as `<think>…</think>`."""
        if not self.reasoning:
            return self
        return Choice(f"<think>\n{self.reasoning}\n</think>\n\n{self.text}".strip(), self.finish)

    @property
    def flaw(self) -> str:
        """Why a student should not learn from it; "" if it may."""
        ended = f"finish_reason {visible(self.finish)}" if self.finish else "no finish_reason"
        if not self.text:
            return f"empty but for reasoning ({ended})" if self.reasoning else f"empty ({ended})"
        return "" if self.finish.lower() in _OWN_END else f"not ended by the model itself ({ended})"


@dataclass(frozen=True)
class Reply:
    """One answer of the endpoint."""

    choices: tuple[Choice, ...]  # may be fewer or more than asked for
    prompt_tokens: int | None = None  # None: the server did not count
    completion_tokens: int | None = None  # of all samples together
    model: str = ""  # as the server names it ("gpt-3.5-turbo-0125"); "" if it does not say


def parse_reply(body: Any, api: str) -> Reply:
    """Reads the decoded JSON of an answer to a request of the API "chat" or "completions".

    Raises:
        ValueError, KeyError, TypeError, AttributeError: If it holds no choices, or one of them no text.
    """
    choices = tuple(_choice(choice, api) for choice in body["choices"] if not choice.get("error"))
    if not choices:
        raise ValueError("no choices")
    usage = body.get("usage")
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (c if type(c) is int and 0 <= c < _TOO_MANY else None for c in counts)
    return Reply(choices, prompt, completion, body["model"] if is_text(body.get("model")) else "")


def _choice(value: Any, api: str) -> Choice:
    finish, message = value.get("finish_reason"), value["message"] if api == "chat" else value
    thoughts = [message.get(name) for name in ("reasoning_content", "reasoning")]
    reasoning = next((thought.strip() for thought in thoughts if thought and is_text(thought)), "")
    name = "content" if api == "chat" else "text"
    text = message.get(name) if reasoning else message[name]
    if text is not None and not is_text(text):
        raise ValueError("a choice that is no text")
    return Choice((text or "").strip(), finish if is_text(finish) else "", reasoning)
