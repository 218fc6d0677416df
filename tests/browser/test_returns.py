"""A tab that was away: frozen, in the back/forward cache, stopped, offline, or for longer than its session lives.

The page shows as of when it is until the server has confirmed that everything is there; a recorder in the page notes
what it showed at each moment, so that stale content shown as live is found however short it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.browser.absences import LINES, LIVE, STATE, Absence, freeze, leave, stop, unplug
from tests.browser.chrome import Chrome, find_chromium
from tests.harness import Server

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (on Debian: apt-get install chromium)"),
]

RECORD = """
window.shown = [];
new MutationObserver(() => shown.push([document.getElementById("state-text").textContent,
                                       document.querySelectorAll("#thoughts p").length]))
  .observe(document.body, { subtree: true, childList: true, characterData: true });
"""
OF_THE_NETWORK = ("Failed to load resource", "WebSocket connection to")  # what was given up meanwhile
MISSED = [f"missed {number}" for number in range(5)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Pings often, so that a page that does not answer is soon given up."""
    with Server(workers=2, env={"PING_INTERVAL": "1000", "PING_TIMEOUT": "1000", "WSAPP_BEACON": "1"}) as running:
        yield running


def think(server: Server, agent: str, *texts: str) -> None:
    for text in texts:
        server.emitter.broadcast_agent_thought({"agentId": agent, "thought": text})


def watch(chrome: Chrome, server: Server, agent: str, transport: str) -> None:
    think(server, agent, "before")
    chrome.open(f"{server.url}/?transport={transport}#agent:{agent}")
    chrome.wait(f"{LIVE} && {LINES}.length === 1", 30)
    chrome.js(RECORD)


def is_current_and_was_honest(chrome: Chrome) -> None:
    """Everything is there in order, and "live" was shown at no moment between the return and that."""
    chrome.wait(f"{LIVE} && {LINES}.length === 6", 30)
    assert chrome.js(LINES) == ["before", *MISSED]
    shown = chrome.js("shown")
    left = next(number for number, (state, _) in enumerate(shown) if state.startswith("as of "))
    assert [count for state, count in shown[left:] if state == "live" and count < 6] == [], shown
    assert [error for error in chrome.errors if not error.startswith(OF_THE_NETWORK)] == []


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("absence", [freeze, stop, leave, unplug])
def test_a_tab_that_was_away_is_current_again(
        server: Server, chrome: Chrome, absence: Absence, transport: str) -> None:
    agent = f"{absence.__name__}-{transport}"
    watch(chrome, server, agent, transport)
    absence(chrome, lambda: think(server, agent, *MISSED))
    is_current_and_was_honest(chrome)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_a_tab_that_was_frozen_until_the_server_gave_it_up(server: Server, chrome: Chrome, transport: str) -> None:
    agent = f"given-up-{transport}"
    watch(chrome, server, agent, transport)

    def away() -> None:
        think(server, agent, *MISSED)
        time.sleep(5)

    freeze(chrome, away)
    is_current_and_was_honest(chrome)


def test_a_tab_that_was_away_for_longer_than_its_session_lives(chrome: Chrome) -> None:
    with Server(workers=2, env={"WSAPP_SESSION_TTL": "1"}) as own:
        watch(chrome, own, "long", "websocket")
        own.terminate()
        chrome.wait(f"{STATE}.startsWith('as of ')")
        think(own, "long", *MISSED)
        time.sleep(2)
        own.start()
        is_current_and_was_honest(chrome)


def test_what_is_no_longer_kept_is_marked_in_its_place(chrome: Chrome) -> None:
    with Server(workers=2, env={"WSAPP_SESSION_TTL": "1", "WSAPP_HISTORY_SIZE": "3"}) as own:
        watch(chrome, own, "trimmed", "websocket")
        own.terminate()
        chrome.wait(f"{STATE}.startsWith('as of ')")
        think(own, "trimmed", *MISSED)
        time.sleep(2)
        own.start()
        chrome.wait(f"{LIVE} && {LINES}.length === 4", 30)
        assert chrome.js("[...document.querySelectorAll('#thoughts > li:not(.divider)')]"
                         ".map(line => line.querySelector('p')?.textContent || line.textContent)") == [
            "before", "2 events of agent:trimmed are no longer kept", *MISSED[2:]]
