"""What is asked for one question: everything its samples depend on, and the longest it can get."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from datamodules.components.records.records import Question
from dust2gold.collect.prompt import FewShotPrompt
from dust2gold.collect.settings import Endpoint, TeacherSampling

_TEMPLATE = 64  # tokens a server's chat template may add to a conversation
_TURN = 16  # and to each message of it


@dataclass(frozen=True)
class Request:
    """The request for a question, but for the number of samples.

    Attributes:
        question_id: `Question.id`.
        api: "chat" or "completions".
        body: The fields of the request, without `n`.
        n: Samples wanted.
        max_tokens: Cap on the tokens of each, None if there is none.
        seed: Base seed, None if none is sent.
    """

    question_id: str
    api: str
    body: dict[str, Any]
    n: int
    max_tokens: int | None
    seed: int | None

    @property
    def key(self) -> str:
        """A hash of what the samples depend on: question, prompt, model, sampling. Not of where the model is."""
        facts = [self.question_id, self.api, self.body, self.seed]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def longest_prompt(self) -> int:
        """No fewer tokens than the prompt has: every token but those of the chat template covers at least a byte."""
        if self.api == "completions":
            return len(self.body["prompt"].encode()) + _TURN
        return _TEMPLATE + sum(len(message["content"].encode()) + _TURN for message in self.body["messages"])

    def longest_completion(self, n: int) -> int:
        """No fewer tokens than `n` samples can have; 0 if nothing caps them."""
        return n * (self.max_tokens or 0)

    def seed_of(self, key: str, ordinal: int) -> int | None:
        """The seed to send with the `ordinal`-th paid request for this: a fixed one would give the same samples."""
        if self.seed is None:
            return None
        digest = hashlib.blake2b(f"{self.seed}\0{ordinal}\0{key}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") >> 1


def build_request(question: Question, prompt: FewShotPrompt, endpoint: Endpoint, sampling: TeacherSampling) -> Request:
    """Makes the request for a question."""
    asked: dict[str, Any] = (
        {"messages": prompt.messages(question.question)}
        if endpoint.api == "chat"
        else {"prompt": prompt.text(question.question)}
    )
    body: dict[str, Any] = {"model": endpoint.model, **asked, "temperature": sampling.temperature}
    if sampling.top_p < 1:
        body["top_p"] = sampling.top_p
    if sampling.max_tokens is not None:
        body[endpoint.token_limit] = sampling.max_tokens
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    body |= endpoint.parameters
    return Request(question.id, endpoint.api, body, sampling.n, sampling.max_tokens, sampling.seed)
