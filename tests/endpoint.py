"""An OpenAI-compatible server on loopback that can misbehave, and remembers what it was asked and paid for."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Write = Callable[[str, int], list[str]]
"""From a question and a number to so many samples."""


@dataclass
class Misbehaviour:
    """What to do about one request instead of answering it well; the fields do not exclude each other."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None  # sent as it stands
    slow: float = 0.0  # seconds before the first byte
    drop: bool = False  # close the connection in the middle of the body
    at_most: int | None = None  # choices
    change: Callable[[Body], object] | None = None  # of the answer, before it is sent


class Endpoint(ThreadingHTTPServer):
    """Answers chat and completion requests; made by `serving`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, write: Write) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.write = write
        self.script: list[Misbehaviour | None] = []  # what happens to the next requests, in order; None: a good answer
        self.pause = 0.0  # seconds each good answer takes
        self.idempotent = True  # a request with a known `Idempotency-Key` gets the answer it was billed for again
        self.asked: list[tuple[str, dict[str, str], Body, float]] = []  # path, headers in lower case, body, time
        self.billed: dict[str, Body] = {}  # answers generated, arrived or not, by key (and a number: not idempotent)
        self.at_once = self.most_at_once = 0  # requests under way together
        self.lock = threading.Lock()
        self.base_url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients are killed in these tests: a broken pipe is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def log_message(self, *args: Any) -> None: ...

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {key.lower(): value for key, value in self.headers.items()}
        with server.lock:
            server.asked.append((self.path, headers, body, time.monotonic()))
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            how = (server.script.pop(0) if server.script else None) or Misbehaviour(slow=server.pause)
        try:
            time.sleep(how.slow)
            self._answer(body, how)
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self, body: Body, how: Misbehaviour) -> None:
        if how.status != 200 or how.body is not None:
            text = how.body if how.body is not None else json.dumps({"error": {"message": f"status {how.status}"}})
            self._send(how.status, text.encode(), how.headers)
            return
        question = asked_question(body)
        n = min(body.get("n", 1), how.at_most or 1000)
        with self.server.lock:
            name = self.headers["Idempotency-Key"] + ("" if self.server.idempotent else f" {len(self.server.billed)}")
            if name not in self.server.billed:
                self.server.billed[name] = self._make(body, question, n)
            answer = json.loads(json.dumps(self.server.billed[name]))
        if how.change is not None:
            how.change(answer)
        data = json.dumps(answer).encode()
        if how.drop:
            self._send(200, data[: len(data) // 2], length=len(data))
            self.close_connection = True
            self.connection.close()
            return
        self._send(200, data)

    def _make(self, body: Body, question: str, n: int) -> Body:
        texts = self.server.write(question, n)
        written: list[Body] = [{"text": text} for text in texts]
        if self.path.partition("?")[0].endswith("/chat/completions"):
            written = [{"message": {"role": "assistant", "content": text}} for text in texts]
        choices = [{"index": index, "finish_reason": "stop", **choice} for index, choice in enumerate(written)]
        prompt = json.dumps(body.get("messages") or body["prompt"])
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": sum(len(text) // 4 + 1 for text in texts)}
        return {"id": "x", "model": f"{body['model']}-0125", "choices": choices, "usage": usage}

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def asked_question(body: Body) -> str:
    """The question at the end of a prompt made with `ask: "Problem: {question}"`."""
    text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    return str(text.rpartition("Problem: ")[2].strip())


def numbered() -> Write:
    """Writes samples that are told apart by a number; every second one states the sum of the question's numbers."""
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def write(question: str, n: int) -> list[str]:
        first, second = map(int, re.findall(r"\d+", question)[:2])
        with lock:
            start = counts[question]
            counts[question] += n
        sums = [(k, first + second + k % 2) for k in range(start, start + n)]
        return [f"Sample {k}: {first} + {second} = \\boxed{{{total}}}" for k, total in sums]

    return write


@contextmanager
def serving(write: Write | None = None) -> Iterator[Endpoint]:
    """Runs an endpoint in a thread of this process while the block runs."""
    with Endpoint(write or numbered()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
