"""Headless Chromium, steered through its pipe: pages from file://, and what their consoles complain of."""

import itertools
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = "--headless --no-sandbox --disable-gpu --disable-background-networking --window-size=1400,1000"


class Page:
    """A page, its complaints collected as they come."""

    def __init__(self, read: int, write: int) -> None:
        self.complaints: list[Any] = []
        self._stream, self._read = read, b""
        self._write = write
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Calls a method of the DevTools protocol and returns its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._until(lambda found: found.get("id") == number)["result"]

    def open(self, file: Path, fragment: str = "") -> None:
        """Loads a page afresh and waits until it is there."""
        for url in ("about:blank", file.resolve().as_uri() + fragment):
            self.call("Page.navigate", url=url)
        self.run("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def _until(self, holds: Any) -> dict[str, Any]:
        while True:
            found: dict[str, Any] = json.loads(self._message())
            params, method = found.get("params", {}), found.get("method")
            if method in ("Runtime.exceptionThrown", "Log.entryAdded") or params.get("type") in ("error", "warning"):
                self.complaints.append(params)
            if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
                self.complaints.append(params)
            assert "error" not in found, found
            if holds(found):
                return found

    def _message(self) -> bytes:
        """The next message; each ends in a zero byte."""
        while b"\0" not in self._read:
            assert select.select([self._stream], [], [], 60)[0], "Chromium says nothing"
            part = os.read(self._stream, 1 << 16)
            assert part, "Chromium has ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return message


@contextmanager
def chromium(home: Path) -> Iterator[Page]:
    """A page of a browser of its own, which ends with the block."""
    (to_read, to_write), (from_read, from_write) = os.pipe(), os.pipe()
    command = (
        f'exec "{PROGRAM}" {OPTIONS} --remote-debugging-pipe --user-data-dir="{home}" 3<&{to_read} 4>&{from_write}'
    )
    with subprocess.Popen(
        ["bash", "-c", command], pass_fds=(to_read, from_write), stderr=subprocess.DEVNULL
    ) as process:
        os.close(to_read)
        os.close(from_write)
        try:
            yield Page(from_read, to_write)
        finally:
            os.close(to_write)  # at the end of its pipe it ends
            os.close(from_read)
            process.wait(timeout=30)
