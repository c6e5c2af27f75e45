"""A real headless Chromium, driven over its DevTools pipe: no driver, no port, no network."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",  # it refuses to run as root with one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
TIMEOUT_S = 120


def find() -> str | None:
    """The browser's command, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def open_page(path: Path | str, profile: Path, width_px: int = 1400, height_px: int = 1000) -> Iterator[Page]:
    """Load a file, or an address. ``profile``: a new empty folder for the browser's own data."""
    command = find()
    assert command is not None
    ours, theirs = _pipe(), _pipe()  # they read the first, we the second; both above 4, which the shell sets
    words = ["bash", "-c", 'exec "${@:3}" 3<&"$1" 4>&"$2"', "bash", str(ours[0]), str(theirs[1]), command, *FLAGS]
    words += [f"--user-data-dir={profile}", "about:blank"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(words, pass_fds=(ours[0], theirs[1]), **quiet)  # type: ignore[call-overload]
    os.close(ours[0])
    os.close(theirs[1])
    try:
        page = Page(ours[1], theirs[0])
        page.load(path, width_px, height_px)
        yield page
    finally:
        child.terminate()
        child.wait(30)
        os.close(ours[1])
        os.close(theirs[0])


def _pipe() -> tuple[int, int]:
    found = []
    for end in os.pipe():
        found.append(fcntl.fcntl(end, fcntl.F_DUPFD, 10))
        os.close(end)
    return found[0], found[1]


class Page:
    """A loaded page, what it asked for and what it complained about."""

    def __init__(self, write_to: int, read_from: int) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._write, self._read, self._buffer, self._number, self._loaded = write_to, read_from, b"", 0, False
        target = self.call("Target.createTarget", url="about:blank", session=None)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True, session=None)["sessionId"]

    def load(self, path: Path | str, width_px: int, height_px: int) -> None:
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.resize(width_px, height_px)
        self.go(path if isinstance(path, str) else path.as_uri())
        self.run("document.fonts.ready.then(() => new Promise(requestAnimationFrame)).then(() => true)")

    def go(self, address: str) -> None:
        """Open another page in the same window."""
        self._loaded = False
        self.call("Page.navigate", url=address)
        while not self._loaded:
            self._take()

    def wait(self, condition: str) -> Any:
        """The value of a JavaScript expression as soon as it is true, also of a page that is only now being loaded."""
        expression = f"(found => found instanceof Node || found)({condition})"
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
            except AssertionError as error:
                if "navigated" not in str(error):  # to another page, in the middle of the question
                    raise
                continue
            if done["result"].get("value") and "exceptionDetails" not in done:
                return done["result"]["value"]
            time.sleep(0.05)
        raise AssertionError(f"not true after {TIMEOUT_S} s: {condition}")

    def resize(self, width_px: int, height_px: int) -> None:
        size = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def dark(self) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, or what its promise gives."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def screenshot(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def call(self, method: str, session: str | None = "", **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session == "":
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        wanted = self._number
        while True:
            found = self._take()
            if found.get("id") == wanted:
                assert "error" not in found, found
                return found["result"]

    def _take(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self._read, 2**20) if ready else b""
            assert data, f"the browser said nothing for {TIMEOUT_S} s, or has gone"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"][:200])
        elif method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(parameters)[:500])
        elif method == "Page.loadEventFired":
            self._loaded = True
