"""One request to the endpoint through the official client, and which failures are worth another try."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from openai import APIConnectionError, APIStatusError, AsyncOpenAI

from dust2gold.collect.reply import Choice, MalformedReplyError, Reply, parse_reply
from dust2gold.collect.request import Request
from dust2gold.collect.settings import Endpoint
from dust2gold.core.errors import InputError

_NEVER_CONNECTED = {"ConnectError", "ConnectTimeout", "PoolTimeout"}
"""httpx's exceptions that mean the request never reached the server, by name: which httpx it is, is openai's affair."""

_REMEDIES = {
    400: "change what the server objects to. Too long: shorten the prompt's shots, lower sampling.max_tokens or leave "
    "the question out; n: set endpoint.choices_per_request to 1; max_tokens: try the other endpoint.token_limit",
    402: "pay what is due, then run the same command again",
    403: "the key may not use this model: take another model or another key",
    404: "check endpoint.model and endpoint.base_url, which ends in /v1 as a rule",
}
_SHOWN = 300  # characters of the server's own words


class TransientError(Exception):
    """A request failed, and the same request may succeed later.

    Args:
        because: What happened, as a clause.
        retry_after: Seconds the server asked to wait; None if it did not.
        charged: Whether the server may have done the work, and charge for it, all the same.
    """

    def __init__(self, because: str, retry_after: float | None = None, charged: bool = False) -> None:
        super().__init__(because)
        self.because = because
        self.retry_after = retry_after
        self.charged = charged


class Client:
    """Asks one endpoint. Close it with `aclose`.

    Args:
        endpoint: Where the model is.

    Raises:
        InputError: If the environment holds no key.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._key = read_key(endpoint.key_variable)
        self._client = AsyncOpenAI(
            api_key=self._key or "none", base_url=endpoint.base_url, timeout=endpoint.timeout, max_retries=0
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def ask(self, request: Request, n: int, seed: int | None, name: str) -> Reply:
        """Asks for `n` samples.

        Args:
            request: The request.
            n: How many samples.
            seed: Sent if not None.
            name: Sent as `Idempotency-Key`: an endpoint that knows it gives a repeated request the answer it has paid
                for already.

        Raises:
            TransientError: If asking again may help.
            InputError: If it cannot.
        """
        body = {**request.body, **({"n": n} if n > 1 else {}), **({} if seed is None else {"seed": seed})}
        try:
            text = await asyncio.wait_for(self._send(request.api, body, name), self._endpoint.timeout)
        except asyncio.TimeoutError:
            raise self._timed_out() from None
        except APIConnectionError as error:
            raise self._unconnected(error) from None
        except APIStatusError as error:
            raise self._refused(error, request.question_id) from None
        try:
            return self._without_keys(parse_reply(json.loads(text), request.api))
        except (ValueError, RecursionError):
            raise TransientError("malformed JSON in the answer", charged=True) from None
        except MalformedReplyError as error:
            raise TransientError(f"unusable answer: {error}", charged=True) from None

    async def _send(self, api: str, body: dict[str, Any], name: str) -> str:
        """The answer's text. Its own parser is left out: it takes whatever JSON there is for an answer."""
        client = self._client
        create: Any = (client.chat.completions if api == "chat" else client.completions).with_raw_response.create
        known = {key: body[key] for key in ("model", "messages", "prompt") if key in body}
        rest = {key: value for key, value in body.items() if key not in known}
        raw = await create(**known, extra_body=rest, extra_headers={"Idempotency-Key": name})
        return str(raw.http_response.text)

    def _without_key(self, text: str) -> str:
        """What a server sends may repeat the key it was sent; it goes into files and onto the screen."""
        return text.replace(self._key, "***") if self._key else text

    def _without_keys(self, reply: Reply) -> Reply:
        """As `_without_key`, of the decoded answer: JSON can spell each letter of the key in another way."""
        clean = self._without_key
        choices = tuple(Choice(clean(choice.text), clean(choice.finish)) for choice in reply.choices)
        return replace(reply, choices=choices, model=clean(reply.model))

    def _timed_out(self) -> TransientError:
        return TransientError(f"no answer within {self._endpoint.timeout:g} s", charged=True)

    def _unconnected(self, error: APIConnectionError) -> TransientError:
        cause = type(error.__cause__).__name__
        if cause in _NEVER_CONNECTED:
            return TransientError(f"no connection to {self._client.base_url.host} ({cause})")
        if "Timeout" in cause:
            return self._timed_out()
        return TransientError(f"the connection broke ({cause})", charged=True)

    def _refused(self, error: APIStatusError, question: str) -> Exception:
        status, body = error.status_code, error.body
        said = body.get("message") if isinstance(body, dict) else None
        words = shown(self._without_key(str(said or error.response.text)))
        quota = "insufficient_quota" in (error.code, error.type)
        if (status in (408, 409, 429) or status >= 500) and not quota:
            return TransientError(f"HTTP {status}: {words}", retry_after(error.response.headers))
        remedy = _REMEDIES.get(status, _REMEDIES[400])
        if status == 401:
            remedy = self._remedy_for_key()
        elif quota:
            remedy = "the account has no credit left: add some, then run the same command again"
        return InputError(f"the endpoint refuses question '{question}': HTTP {status}: {words}", remedy=remedy)

    def _remedy_for_key(self) -> str:
        name = self._endpoint.key_variable
        if name is None:
            return "it wants a key: set endpoint.key_variable to the name of the environment variable that holds it"
        return f"put a valid key into the environment variable {name}"


def shown(text: str) -> str:
    """A server's words as one line that is safe to print: no control characters, not too long."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def read_key(variable: str | None) -> str | None:
    """The API key from the environment; None if the endpoint wants none.

    Raises:
        InputError: If the variable is not set, or holds what no header can.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(
            f"the environment variable {variable} is not set",
            field="endpoint.key_variable",
            remedy=f"export {variable}=... with the key; endpoint.key_variable null for an endpoint without keys",
        )
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"the environment variable {variable} holds no key", remedy="set it again, to the key alone")
    return key


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds a server asks to wait, from `retry-after-ms` or `Retry-After` (seconds or a date); None without."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            seconds = _until(value)
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _until(date: str) -> float:
    """Seconds from now to an HTTP date, 0 if it is past, NaN if it is none."""
    try:
        then = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return float("nan")
    if then.tzinfo is None:
        then = then.replace(tzinfo=timezone.utc)
    return max((then - datetime.now(timezone.utc)).total_seconds(), 0.0)
