"""The live page in a real browser, against real workers: what a new user sees after `make run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chrome import Chrome, find_chromium
from tests.harness import OURS, ROOT, Server
from tests.tokens import GUARDED, mint

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (on Debian: apt-get install chromium)"),
]

JOINED = "document.querySelectorAll('.room[data-joined=yes]').length === {count}"
STATE = "document.getElementById('state-text').textContent"
LINES = "[...document.querySelectorAll('#thoughts p')].map(line => line.textContent)"
TASK = "document.querySelector('#tasks li[data-status={status}] .status')?.textContent"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(workers=2) as running:
        yield running


@pytest.fixture
def chrome() -> Iterator[Chrome]:
    assert CHROMIUM is not None
    with Chrome(CHROMIUM) as browser:
        yield browser


def wsapp(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user of this server would."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return subprocess.run([sys.executable, "-m", "wsapp", *arguments], cwd=ROOT, capture_output=True, text=True,
                          timeout=60, env={**env, "REDIS_URL": server.redis_url}, check=False)


def watch(chrome: Chrome, server: Server, rooms: str = "", count: int = 3) -> None:
    chrome.open(f"{server.url}/{'#' + rooms if rooms else ''}")
    chrome.wait(JOINED.format(count=count), 30)


def test_a_command_is_seen_at_once(server: Server, chrome: Chrome, tmp_path: Path) -> None:
    watch(chrome, server)
    assert chrome.js("document.getElementById('hint').textContent") == (
        ".venv/bin/wsapp run --agent coder --task t1 --project p1 -- ls -la")
    done = wsapp(server, "run", "--agent", "coder", "--task", "t1", "--project", "p1", "--", "ls", "-la", "wsapp")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    chrome.wait(f"{LINES}.length >= {len(lines)}")
    assert [line for line in chrome.js(LINES) if line] == lines
    assert "100 %" in chrome.wait(TASK.format(status="completed"))
    assert chrome.js("document.getElementById('empty').hidden") is True
    assert chrome.wait("document.getElementById('facts').textContent.startsWith('websocket')")
    assert chrome.screenshot(tmp_path / "page.png").stat().st_size > 10_000
    assert chrome.errors == []


def test_a_link_opens_subscribed(server: Server, chrome: Chrome) -> None:
    watch(chrome, server, "agent:linked", 1)
    server.emitter.broadcast_agent_thought({"agentId": "linked", "thought": "<img src=x onerror=alert(1)> & <b>"})
    server.emitter.broadcast_agent_thought({"agentId": "other", "thought": "not for this page"})
    chrome.wait(f"{LINES}.length === 1")
    assert chrome.js(LINES) == ["<img src=x onerror=alert(1)> & <b>"]
    assert chrome.errors == []


def test_rooms_are_added_and_left(server: Server, chrome: Chrome) -> None:
    watch(chrome, server, "agent:one", 1)
    chrome.js("document.getElementById('room').value = 'project:a b,c';"
              "document.getElementById('subscribe').requestSubmit()")
    chrome.wait(JOINED.format(count=2))
    assert chrome.js("location.hash") == "#agent:one,project:a%20b%2Cc"
    server.emitter.broadcast_project_event("a b,c", "deployed", {"id": "mine", "version": "1.2"})
    server.emitter.broadcast_project_event("a b,c", "deployed", {"id": "mine", "version": "1.3"})
    chrome.wait("document.querySelectorAll('#events li:not(.none)').length === 2")
    chrome.js("document.querySelector('.room button').click()")
    chrome.js("document.getElementById('room').value = 'task:t'; document.getElementById('subscribe').requestSubmit()")
    chrome.wait(JOINED.format(count=2))  # answered in order: the other room is left by now
    server.emitter.broadcast_agent_thought({"agentId": "one", "thought": "left"})
    server.emitter.broadcast_project_event("a b,c", "end")
    chrome.wait("document.querySelectorAll('#events li').length === 3")
    assert chrome.js(LINES) == []
    assert chrome.js("location.hash") == "#project:a%20b%2Cc,task:t"


def test_a_refusal_is_shown(server: Server, chrome: Chrome) -> None:
    watch(chrome, server, "agent:" + "x" * 300, 0)
    chrome.wait("document.querySelector('.room[data-joined=refused]') !== null")
    assert "200 characters" in chrome.wait("document.getElementById('notices').textContent")


def test_a_flood_stays_bounded_and_in_order(server: Server, chrome: Chrome) -> None:
    watch(chrome, server, "agent:flood", 1)
    server.emitter.publish_many(("agent-thought", {"agentId": "flood", "thought": str(number)})
                                for number in range(800))
    chrome.wait(f"{LINES}.at(-1) === '799'", 60)
    assert chrome.js(LINES) == [str(number) for number in range(300, 800)]
    assert chrome.js("document.getElementById('thought-count').textContent") == "800"


def test_the_page_acknowledges_critical_events(server: Server, chrome: Chrome) -> None:
    watch(chrome, server, "agent:grave", 1)
    receipt = server.emitter.broadcast_agent_thought({"agentId": "grave", "thought": "look"}, critical=True)
    assert server.emitter.wait_for_ack(receipt, 20.0)
    assert chrome.js(LINES) == ["look"]


def test_a_restart_is_survived(chrome: Chrome) -> None:
    with Server(workers=2, env={"WSAPP_DRAIN_TIMEOUT": "2"}) as own:
        watch(chrome, own)
        own.emitter.broadcast_agent_thought({"agentId": "coder", "thought": "before"})
        chrome.wait(f"{LINES}.length === 1")
        own.terminate()
        chrome.wait(f"{STATE} === 'reconnecting'")
        missed = [str(number) for number in range(5)]
        for thought in missed:
            own.emitter.broadcast_agent_thought({"agentId": "coder", "thought": thought})
        own.start()
        chrome.wait(f"{LINES}.length >= 6", 30)
        assert chrome.js(LINES) == ["before", *missed]
        chrome.wait(f"{STATE} === 'recovered'")


def test_a_phone_shows_everything(server: Server, chrome: Chrome, tmp_path: Path) -> None:
    chrome.resize(390, 844, mobile=True, scale=2)
    chrome.scheme("dark")
    watch(chrome, server)
    assert chrome.js("document.documentElement.scrollWidth <= innerWidth") is True
    assert chrome.screenshot(tmp_path / "phone.png").stat().st_size > 10_000


def test_history_is_there_when_the_page_opens(server: Server, chrome: Chrome) -> None:
    for number in range(5):
        server.emitter.broadcast_agent_thought({"agentId": "past", "thought": str(number)})
        server.emitter.broadcast_task_update({"taskId": "past", "status": "in_progress", "progress": number})
        server.emitter.broadcast_project_event("past", "step", {"number": number})
    watch(chrome, server, "agent:past,task:past,project:past")
    chrome.wait(f"{LINES}.length === 5 && document.querySelectorAll('#events li:not(.none)').length === 5")
    assert chrome.js(LINES) == ["0", "1", "2", "3", "4"]
    chrome.wait(TASK.format(status="in_progress") + ".includes('4 %')")
    assert "number=4" in chrome.js("document.querySelector('#events li').textContent")


# -- tokens

SHOWN = "!document.getElementById('identity').hidden && document.getElementById('identity-why').textContent"
GIVE = "document.getElementById('token').value = {token}; document.getElementById('identify').requestSubmit()"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with Server(workers=2, env={**GUARDED, "WSAPP_TOKEN_WARNING": "60", "WSAPP_JWT_LEEWAY": "0"}) as running:
        yield running


def give(chrome: Chrome, token: str) -> None:
    chrome.js(GIVE.format(token=json.dumps(token)))


def test_a_token_is_asked_for_and_kept_by_the_tab_alone(guarded: Server, chrome: Chrome, tmp_path: Path) -> None:
    chrome.open(f"{guarded.url}/#agent:mine")
    assert "A token is needed" in chrome.wait(SHOWN)
    assert "refused" in chrome.js(STATE)
    assert chrome.screenshot(tmp_path / "asked.png").stat().st_size > 10_000
    give(chrome, "garbage")
    chrome.wait(f"{SHOWN} && {SHOWN}.includes('token_invalid')")
    give(chrome, mint("ann", rooms=["agent:mine"]))
    chrome.wait(JOINED.format(count=1))
    assert chrome.js("document.getElementById('identity').hidden") is True
    assert chrome.js("document.getElementById('identity-open').textContent") == "token of ann"
    assert chrome.js("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    guarded.emitter.broadcast_agent_thought({"agentId": "mine", "thought": "for ann"})
    chrome.wait(f"{LINES}.length === 1")
    chrome.js("document.getElementById('room').value = 'agent:yours';"
              "document.getElementById('subscribe').requestSubmit()")
    assert "not allowed in agent:yours" in chrome.wait("document.getElementById('notices').textContent")
    chrome.js("document.getElementById('forget').click()")
    assert "A token is needed" in chrome.wait(SHOWN)
    assert chrome.js("sessionStorage.length") == 0
    assert chrome.errors == []


def test_a_link_may_bring_the_token(guarded: Server, chrome: Chrome) -> None:
    chrome.open(f"{guarded.url}/#agent:linked&token={mint('bob', rooms=['agent:*'])}")
    chrome.wait(JOINED.format(count=1))
    assert chrome.js("location.hash") == "#agent:linked"
    assert chrome.js("performance.getEntriesByType('resource').some((entry) => entry.name.includes('eyJ'))") is False
    assert "eyJ" not in guarded.log_tail(), "no token in the log"
    chrome.js("location.reload()")
    chrome.wait(JOINED.format(count=1))


def test_a_link_does_not_make_somebody_else_of_the_tab_without_asking(guarded: Server, chrome: Chrome) -> None:
    chrome.open(f"{guarded.url}/#agent:own&token={mint('hal')}")
    chrome.wait("document.getElementById('identity-open').textContent === 'token of hal'")
    chrome.wait(JOINED.format(count=1))
    chrome.js(f"location.hash = '#agent:own&token={mint('mallory')}'")
    assert "a token of mallory; this tab has one of hal" in chrome.wait(SHOWN)
    assert chrome.js("location.hash") == "#agent:own"
    assert chrome.js("document.getElementById('identity-open').textContent") == "token of hal"
    chrome.js("document.getElementById('identify').requestSubmit()")
    chrome.wait("document.getElementById('identity-open').textContent === 'token of mallory'")


def test_an_address_that_cannot_be_read_breaks_nothing(guarded: Server, chrome: Chrome) -> None:
    chrome.open(f"{guarded.url}/#agent:fine,agent:a%1Bb,%E0%A4,agent:%0Arm&token=%")
    assert "cannot be read" in chrome.wait("document.getElementById('notices').textContent")
    assert chrome.js("[...document.querySelectorAll('.room')].map((room) => room.dataset.room ?? room.textContent)"
                     ".length") == 1
    command = chrome.js("document.getElementById('hint').textContent")
    assert "--agent fine" in command and command.isprintable()
    assert chrome.errors == []


def test_an_ending_token_is_renewed_on_the_same_connection(guarded: Server, chrome: Chrome) -> None:
    chrome.open(f"{guarded.url}/#agent:kept,agent:lost&token={mint('cleo', 50.0)}")
    chrome.wait(JOINED.format(count=2))
    assert "ends in" in chrome.wait(SHOWN)
    session = chrome.js("document.getElementById('facts').textContent")
    give(chrome, mint("cleo", -60))
    chrome.wait(f"{SHOWN} && {SHOWN}.includes('token_expired')")
    give(chrome, mint("cleo", 300.0, rooms=["agent:kept"]))
    chrome.wait("document.getElementById('identity').hidden")
    chrome.wait("document.querySelectorAll('.room[data-joined=refused]').length === 1")
    assert "agent:lost: not allowed any more" in chrome.js("document.getElementById('notices').textContent")
    assert chrome.js("document.getElementById('facts').textContent") == session
    give(chrome, mint("dora"))  # somebody else: a session of her own
    chrome.wait("document.getElementById('identity-open').textContent === 'token of dora'")
    chrome.wait(JOINED.format(count=2))


def test_what_ended_for_good_is_said_and_stays_so(guarded: Server, chrome: Chrome, tmp_path: Path) -> None:
    chrome.open(f"{guarded.url}/#agent:a&token={mint('eve', 2.5)}")
    chrome.wait(JOINED.format(count=1))
    chrome.wait(f"{SHOWN} && {SHOWN}.includes('token expired')")
    assert chrome.js(STATE) == "closed: token expired"
    chrome.screenshot(tmp_path / "expired.png")
    assert chrome.errors == []
