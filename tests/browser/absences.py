"""Ways in which a tab is away, done to a real browser; `away()` is what happens meanwhile."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Final

import psutil

from tests.browser.chrome import Chrome

STATE: Final = "document.getElementById('state-text').textContent"
LINES: Final = "[...document.querySelectorAll('#thoughts p')].map(line => line.textContent)"
LIVE: Final = f"{STATE} === 'live'"

Absence = Callable[[Chrome, Callable[[], None]], None]


def freeze(chrome: Chrome, away: Callable[[], None]) -> None:
    chrome.call("Page.setWebLifecycleState", state="frozen")
    away()
    chrome.call("Page.setWebLifecycleState", state="active")


def stop(chrome: Chrome, away: Callable[[], None]) -> None:
    """The whole browser, as a laptop that is closed."""
    processes = [psutil.Process(chrome.pid), *psutil.Process(chrome.pid).children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        away()
        time.sleep(4)  # past what the page takes for a stop, and past both ping limits
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def leave(chrome: Chrome, away: Callable[[], None]) -> None:
    """To another page and back, from the back/forward cache."""
    here = chrome.js("location.href")
    chrome.js("window.kept = true")
    entry = chrome.call("Page.getNavigationHistory")
    chrome.open(chrome.js("location.origin") + "/healthz")
    away()
    chrome.call("Page.navigateToHistoryEntry", entryId=entry["entries"][entry["currentIndex"]]["id"])
    chrome.wait(f"location.href === {json.dumps(here)} && window.kept")


def unplug(chrome: Chrome, away: Callable[[], None]) -> None:
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    chrome.call("Network.enable")
    chrome.call("Network.emulateNetworkConditions", offline=True, **network)
    chrome.wait(f"{STATE}.startsWith('as of ')")
    assert "offline" in chrome.js("document.getElementById('facts').textContent")
    away()
    chrome.call("Network.emulateNetworkConditions", offline=False, **network)
