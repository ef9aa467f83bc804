"""One request to the endpoint through the openai client, and which failures are worth another try.

openai's own retries are off: each attempt has to fit into the budget and stand in the journal before it goes out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient

from dust2gold.collect.request import Choice, Reply, Request, parse_reply
from dust2gold.collect.settings import Endpoint, check_address
from dust2gold.core.errors import InputError
from dust2gold.core.text import visible

_NEVER_CONNECTED = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}
"""httpx's exceptions that mean the request never reached the server, by name: openai decides which httpx it uses."""

_REMEDIES = {
    400: "change what the server objects to. Too long: shorten the prompt's shots, lower sampling.max_tokens or leave "
    "the question out; n: set endpoint.choices_per_request to 1; max_tokens: try the other endpoint.token_limit",
    402: "the account has no credit left: add some, then run the same command again",
    403: "the key may not use this model: take another model or another key",
    404: "check endpoint.model and endpoint.base_url, which ends in /v1 as a rule",
}
_OF_A_QUESTION = (400, 413, 422)
"""Statuses that may be about the question asked alone: a content filter, the model's context."""
_STATUS = re.compile("[45][0-9][0-9]")
_SHOWN = 300  # characters of the server's own message
_ENVIRONMENT = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
"""The environment variables that an HTTP client of httpx is made from, in small letters."""


class TransientError(Exception):
    """A request failed, and the same request may succeed later.

    `retry_after` is the time in seconds that the server asked to wait; `charged` says whether it may have done the
    work, and charge for it, all the same.
    """

    def __init__(self, because: str, retry_after: float | None = None, charged: bool = False) -> None:
        super().__init__(because)
        self.retry_after = retry_after
        self.charged = charged


class RefusedError(InputError):
    """The endpoint refuses one question: its content, or its length. Others may pass."""


class Client:
    """Asks one endpoint. Close it with `aclose`.

    Raises:
        InputError: If the environment holds no key, or proxies, certificates or an address that cannot be used.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._key = read_key(endpoint.key_variable)
        address = endpoint.base_url
        if address is None and (address := os.environ.get("OPENAI_BASE_URL")):
            check_address(address, "OPENAI_BASE_URL")
        url = urlsplit(address or "")
        self._client = AsyncOpenAI(
            api_key=self._key or "none",
            base_url=url._replace(query="").geturl() or None,
            default_query=dict(parse_qsl(url.query)),  # openai would append its paths to it
            timeout=endpoint.timeout,
            max_retries=0,
            http_client=http_client(),
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def ask(self, request: Request, n: int, seed: int | None, name: str) -> Reply:
        """Asks for `n` samples.

        `name` is sent as `Idempotency-Key`: an endpoint that knows it gives a repeated request the answer that was paid
        for already.

        Raises:
            TransientError: If asking again may help.
            RefusedError: If it cannot, and other questions may still be answered.
            InputError: If nothing will be answered.
        """
        body = {**request.body, **({"n": n} if n > 1 else {}), **({} if seed is None else {"seed": seed})}
        path = "/chat/completions" if request.api == "chat" else "/completions"
        # As text: openai's own parser takes whatever JSON there is for an answer.
        sent = self._client.post(path, cast_to=str, body=body, options={"headers": {"Idempotency-Key": name}})
        try:
            text = await asyncio.wait_for(sent, self._endpoint.timeout)
        except asyncio.TimeoutError:
            raise TransientError(f"no answer within {self._endpoint.timeout:g} s", charged=True) from None
        except APIConnectionError as error:
            cause = type(error.__cause__).__name__
            if cause in _NEVER_CONNECTED:
                raise TransientError(f"no connection to {self._client.base_url.host} ({cause})") from None
            raise TransientError(f"the connection broke ({cause})", charged=True) from None
        except APIStatusError as error:
            if 300 <= error.status_code < 400:
                raise self._redirected(error) from None
            told = error.body if isinstance(error.body, dict) else {"message": error.response.text}
            how = f"HTTP {error.status_code}"
            raise self._refused(how, error.status_code, told, request.question_id, error.response.headers) from None
        answer = None
        try:
            reply = parse_reply(answer := json.loads(text), request.api)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if found := error_in(answer):
                status = found["status"]
                how = f"HTTP 200 with {'an error' if status is None else f'error {status}'}"
                raise self._refused(how, status or 500, found, request.question_id, {}) from None
            said = self._shown(text if answer is None else json.dumps(answer))
            raise TransientError(f"unusable answer ({error!r}): {said}", charged=True) from None
        hide = self._without_key  # now that it is decoded: JSON can spell each letter of the key in another way
        choices = tuple(Choice(*map(hide, (each.text, each.finish, each.reasoning))) for each in reply.choices)
        return replace(reply, choices=choices, model=hide(reply.model))

    def _without_key(self, text: str) -> str:
        """What a server sends may repeat the key it was sent; it goes into files and onto the screen."""
        return text.replace(self._key, "***") if self._key else text

    def _shown(self, said: str) -> str:
        """The beginning of what a server says, safe to print."""
        return visible(self._without_key(said).encode(errors="replace").decode())[:_SHOWN]

    def _redirected(self, error: APIStatusError) -> InputError:
        """A redirect, which followed would carry the prompt to whom nobody chose."""
        location = self._shown(urljoin(str(error.request.url), error.response.headers.get("location", "")))
        problem = f"the endpoint sends HTTP {error.status_code} on to {location}"
        return InputError(problem, field="endpoint.base_url", remedy="name the address you mean: none is followed")

    def _refused(
        self, how: str, status: int, told: Mapping[str, Any], question: str, headers: Mapping[str, str]
    ) -> Exception:
        """The error that a status, of HTTP or named in a body, and what is told with it make."""
        message = f"{how}: {self._shown(str(told.get('message') or told))}"
        quota = "insufficient_quota" in (told.get("code"), told.get("type"))
        if (status in (408, 409, 429) or status >= 500) and not quota:
            return TransientError(message, retry_after(headers))
        remedy = _REMEDIES[402] if quota else _REMEDIES.get(status, _REMEDIES[400])
        if status == 401:
            name = self._endpoint.key_variable
            unnamed = "it wants a key: set endpoint.key_variable to the name of the environment variable that holds it"
            remedy = f"put a valid key into the environment variable {name}" if name else unnamed
        kind = RefusedError if status in _OF_A_QUESTION and not quota else InputError
        return kind(f"the endpoint refuses question '{question}': {message}", remedy=remedy)


def error_in(body: Any) -> dict[str, Any] | None:
    """The error in a body that came with HTTP 200: its `message`, its `status` or None, and the rest of it.

    It stands in `error`, of the body or of its first choice, or is the body (`detail`, `message`); None without one.
    """
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    told = body.get("error") or first.get("error") or (None if choices else body.get("detail") or body.get("message"))
    if not told:
        return None
    error = told if isinstance(told, dict) else {**body, "message": json.dumps(told).strip('"')}
    named = [str(error.get(name)) for name in ("code", "status", "status_code")]
    return {**error, "status": next((int(code) for code in named if _STATUS.fullmatch(code)), None)}


def read_key(variable: str | None) -> str | None:
    """The API key from the environment; None if the endpoint wants none.

    Raises:
        InputError: If the variable is not set, or holds what no header can.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        remedy = f"export {variable}=... with the key; endpoint.key_variable null for an endpoint without keys"
        problem = f"the environment variable {variable} is not set"
        raise InputError(problem, field="endpoint.key_variable", remedy=remedy)
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"the environment variable {variable} holds no key", remedy="set it again, to the key alone")
    return key


def http_client() -> DefaultAsyncHttpxClient:
    """An HTTP client that follows no redirect, with the environment's proxies and certificates.

    Raises:
        InputError: If they cannot be used; their values, which may hold passwords, are not repeated.
    """
    try:
        return DefaultAsyncHttpxClient(follow_redirects=False)
    except Exception as error:  # each version of httpx raises others
        given = " or ".join(name for name, value in os.environ.items() if value and name.lower() in _ENVIRONMENT)
        problem = f"no HTTP client can be made from the environment ({type(error).__name__})"
        remedy = f"mend or unset {given}; a SOCKS proxy needs pip install socksio"
        raise InputError(problem, remedy=remedy) from None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds a server asks to wait, from `retry-after-ms` or `Retry-After` (seconds or a date); None without."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            seconds = float(headers.get(name, "")) * unit
            return seconds if 0 <= seconds < math.inf else None
    with contextlib.suppress(ValueError, OverflowError):  # no date, or one that no calendar has
        return max(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time(), 0.0)
    return None
