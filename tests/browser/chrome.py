"""A headless Chromium spoken to over its DevTools protocol; no driver program in between.

Every wait has an end; what the page throws or logs as an error is collected in `Chrome.errors`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """Path of an installed Chromium, or None."""
    named = os.environ.get("CHROMIUM", "")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


def polls(seconds: float, step: float = 0.05) -> Iterator[None]:
    """Turns of a waiting loop; ends after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(step)

NAVIGATED = "Inspected target navigated or closed"  # what DevTools answers when the page goes meanwhile


class Chrome:
    """One browser with one page.  Use as a context manager."""

    def __init__(self, binary: str, width: int = 1280, height: int = 760) -> None:
        self._binary, self._size = binary, (width, height)
        self._id = 0
        self.errors: list[str] = []

    def __enter__(self) -> Chrome:
        self._profile = tempfile.mkdtemp(prefix="wsapp-chrome-")
        self._process = subprocess.Popen(
            [self._binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-extensions", "--disable-background-networking", "--hide-scrollbars",
             f"--window-size={self._size[0]},{self._size[1]}", f"--user-data-dir={self._profile}",
             "--remote-debugging-port=0", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._socket = websocket.create_connection(self._page_url(), timeout=30, suppress_origin=True)
        except BaseException:
            self._stop()
            raise
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(*self._size)
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()
        self._stop()

    @property
    def pid(self) -> int:
        """The browser's process; the others are its children."""
        return self._process.pid

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _page_url(self) -> str:
        told = Path(self._profile) / "DevToolsActivePort"
        for _ in polls(30):
            if self._process.poll() is not None:
                raise RuntimeError(f"Chromium ended with {self._process.returncode}")
            if told.exists() and "\n" in (text := told.read_text()):
                with urllib.request.urlopen(f"http://127.0.0.1:{text.split()[0]}/json", timeout=10) as answer:
                    pages = [page for page in json.load(answer) if page["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
        raise TimeoutError("Chromium did not open its DevTools port in 30 s")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Run one DevTools method and return its result."""
        self._id += 1
        self._socket.send(json.dumps({"id": self._id, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._id:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def resize(self, width: int, height: int, mobile: bool = False, scale: float = 1) -> None:
        """Set the viewport in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=mobile)

    def scheme(self, name: str) -> None:
        """Prefer `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def open(self, url: str) -> None:
        """Go to `url` and wait until its scripts have run."""
        self.call("Page.navigate", url=url)
        page = json.dumps(url.split("#", maxsplit=1)[0])
        self.wait(f"location.href.startsWith({page}) && document.readyState === 'complete'")

    def reload(self) -> None:
        """Load the page again and wait until the new one's scripts have run."""
        self.js("window.isOld = true")
        self.call("Page.reload")
        self.wait("!window.isOld && document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 15) -> Any:
        """Wait until the expression is true and return its value; TimeoutError shows the page's text."""
        for _ in polls(seconds):
            try:
                value = self.js(expression)
            except RuntimeError as error:
                if NAVIGATED not in str(error):
                    raise
                continue  # the next look is at the new page
            if value:
                return value
        shown = self.js("document.body.innerText")
        raise TimeoutError(f"not true after {seconds} s: {expression}\nerrors: {self.errors}\n{shown}")

    def screenshot(self, path: Path) -> Path:
        """Write a PNG of the viewport."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path
