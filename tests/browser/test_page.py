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
from tests.renaming import RenamingProxy
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
    program = Path(sys.prefix, "bin", "wsapp").relative_to(ROOT)
    assert chrome.js("document.getElementById('hint').textContent") == (
        f"{program} run --agent coder --task t1 --project p1 -- ls -la")
    done = wsapp(server, "run", "--agent", "coder", "--task", "t1", "--project", "p1", "--", "ls", "-la", "wsapp")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    chrome.wait(f"{LINES}.length >= {len(lines)}")
    assert [line for line in chrome.js(LINES) if line] == lines
    assert "100 %" in chrome.wait(TASK.format(status="completed"))
    assert chrome.js("document.getElementById('empty').hidden") is True
    assert chrome.wait(f"{STATE} === 'live' && document.getElementById('facts').textContent.startsWith('websocket')")
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
        assert "as of " in chrome.wait(f"{STATE} !== 'live' && {STATE}")
        missed = [str(number) for number in range(5)]
        for thought in missed:
            own.emitter.broadcast_agent_thought({"agentId": "coder", "thought": thought})
        own.start()
        chrome.wait(f"{LINES}.length >= 6", 30)
        assert chrome.js(LINES) == ["before", *missed]
        chrome.wait(f"{STATE} === 'live'")


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
    chrome.reload()
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
    shown = f"{STATE} === 'live' && document.getElementById('facts').textContent.match(/^websocket · session .*/)?.[0]"
    session = chrome.wait(shown)
    give(chrome, mint("cleo", -60))
    chrome.wait(f"{SHOWN} && {SHOWN}.includes('token_expired')")
    give(chrome, mint("cleo", 300.0, rooms=["agent:kept"]))
    chrome.wait("document.getElementById('identity').hidden")
    chrome.wait("document.querySelectorAll('.room[data-joined=refused]').length === 1")
    assert "agent:lost: not allowed any more" in chrome.js("document.getElementById('notices').textContent")
    assert chrome.wait(shown) == session
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


# -- what is shown


def text_of(chrome: Chrome, selector: str) -> list[str]:
    return list(chrome.js(f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.textContent)"))


def test_a_streamed_thought_is_one_growing_line_also_after_a_reload(server: Server, chrome: Chrome) -> None:
    watch(chrome, server, "agent:s1,agent:s2", 2)
    words = [f"w{number} " for number in range(150)]
    for some in (words[:75], words[75:]):
        deltas = [{"agentId": agent, "thought": word, "thoughtId": "x", "delta": True}
                  for word in some for agent in ("s1", "s2")]
        server.emitter.publish_many(("agent-thought", delta) for delta in deltas)
        chrome.wait(f"{LINES}.length === 2 && {LINES}.every(line => line.endsWith({json.dumps(some[-1])}))", 60)
    assert chrome.js(LINES) == ["".join(words)] * 2
    chrome.reload()
    chrome.wait(f"{LINES}.length === 2 && {LINES}.every(line => line.endsWith('w149 '))", 60)
    shown = chrome.js(LINES)
    assert shown[0] == shown[1]
    assert "".join(words).endswith(shown[0]), "the newest of the history, in order"


def test_a_project_event_keeps_its_time_over_a_reload(server: Server, chrome: Chrome) -> None:
    server.emitter.broadcast_project_event("timed", "built", {"version": "1"})
    watch(chrome, server, "project:timed", 1)
    when = "document.querySelector('#events time')?.dateTime"
    first = chrome.wait(when)
    chrome.reload()
    assert chrome.wait(when) == first


def test_a_pattern_is_refused_with_the_reason(server: Server, chrome: Chrome) -> None:
    watch(chrome, server, "agent:*", 0)
    chrome.wait("document.querySelector('.room[data-joined=refused]') !== null")
    assert "name each room" in chrome.wait("document.getElementById('notices').textContent")
    assert "name each room" in chrome.js("document.querySelector('.room').title"), "also when the notice has gone"


def test_a_bare_name_is_an_agent_and_leaving_takes_its_lines(server: Server, chrome: Chrome) -> None:
    watch(chrome, server, "agent:kept", 1)
    chrome.js("document.getElementById('room').value = ' planner ';"
              "document.getElementById('subscribe').requestSubmit()")
    chrome.wait(JOINED.format(count=2))
    assert chrome.js("location.hash") == "#agent:kept,agent:planner"
    for agent in ("kept", "planner"):
        server.emitter.broadcast_agent_thought({"agentId": agent, "thought": agent})
    chrome.wait(f"{LINES}.length === 2")
    chrome.js("document.querySelectorAll('.room button')[1].click()")
    assert chrome.js(LINES) == ["kept"]


def test_texts_are_shown_as_they_were_written(server: Server, chrome: Chrome) -> None:
    watch(chrome, server, "agent:texts,task:texts", 2)
    long = "word " * 600
    for thought in (long, "\x1b[31mred\x1b[0m", "مرحبا"):
        server.emitter.broadcast_agent_thought({"agentId": "texts", "thought": thought})
    server.emitter.broadcast_task_update({"taskId": "texts", "status": "failed", "message": "line 1\n  line 2"})
    chrome.wait(f"{LINES}.length === 3 && document.querySelector('#tasks small') !== null")
    assert chrome.js(LINES) == [long, "red", "مرحبا"]
    height = "document.querySelector('#thoughts p').getBoundingClientRect().height"
    folded = chrome.js(height)
    chrome.js("document.querySelector('#thoughts .unfold').click()")
    assert chrome.js(height) > 2 * folded
    assert chrome.js("getComputedStyle(document.querySelectorAll('#thoughts p')[2]).direction") == "rtl"
    assert chrome.js("document.querySelector('#tasks small').innerText") == "line 1\n  line 2"


def test_a_reader_is_not_disturbed(server: Server, chrome: Chrome) -> None:
    watch(chrome, server, "agent:read", 1)
    server.emitter.publish_many(("agent-thought", {"agentId": "read", "thought": str(number)}) for number in range(450))
    chrome.wait(f"{LINES}.at(-1) === '449'", 60)
    chrome.js("document.getElementById('thoughts-scroll').scrollTop = 100")
    top = ("(() => { const box = document.getElementById('thoughts-scroll').getBoundingClientRect();"
           " const seen = document.elementFromPoint(box.left + 300, box.top + 30).closest('.thought');"
           " return seen && seen.querySelector('p').textContent; })()")
    chrome.wait("!document.getElementById('follow').hidden")
    before = chrome.wait(top)
    server.emitter.publish_many(("agent-thought", {"agentId": "read", "thought": str(number)})
                                for number in range(450, 650))
    chrome.wait("document.getElementById('follow').textContent === '↓ 200 new'", 60)
    assert chrome.js(top) == before
    chrome.js("document.getElementById('follow').click()")
    assert chrome.js(LINES) == [str(number) for number in range(150, 650)]
    chrome.wait("document.getElementById('follow').hidden")


def test_what_was_missed_opens_in_its_place(chrome: Chrome) -> None:
    with Server(workers=1, env={"WSAPP_CATCH_UP_LIMIT": "20", "WSAPP_CATCH_UP_TAIL": "5"}) as own:
        watch(chrome, own, "agent:many", 1)
        own.emitter.broadcast_agent_thought({"agentId": "many", "thought": "before"})
        chrome.wait(f"{LINES}.length === 1")
        own.terminate()
        own.emitter.publish_many(("agent-thought", {"agentId": "many", "thought": str(number)}) for number in range(60))
        own.start()
        chrome.wait(f"{STATE} === 'live' && {LINES}.at(-1) === '59'", 30)
        [marker] = text_of(chrome, ".gap")
        assert marker.startswith("You missed 55 events of agent:many while you were away")
        chrome.js("document.querySelector('.gap button').click()")
        chrome.wait("document.querySelector('.gap') === null")
        assert chrome.js(LINES) == ["before", *(str(number) for number in range(60))]


def test_redis_down_is_not_green(chrome: Chrome) -> None:
    with Server(workers=1) as own:
        watch(chrome, own, "agent:a", 1)
        assert own.valkey is not None
        own.valkey.kill()
        chrome.wait("document.getElementById('state').dataset.state === 'degraded'", 30)
        assert "Redis" in chrome.wait("document.getElementById('facts').textContent")
        chrome.reload()  # a page that comes meanwhile is not green either
        chrome.wait("document.getElementById('state').dataset.state === 'degraded'", 30)
        own.valkey.restart()
        chrome.wait(f"{STATE} === 'live'", 30)


def test_a_full_server_is_named(chrome: Chrome) -> None:
    with Server(workers=1, env={"MAX_CONNECTIONS": "1"}) as own:
        chrome.open(f"{own.url}/")
        chrome.wait(JOINED.format(count=3), 30)
        assert CHROMIUM is not None
        with Chrome(CHROMIUM) as other:
            other.open(f"{own.url}/")
            other.wait("document.getElementById('facts').textContent.includes('the worker is full: 1 connections')", 30)
            assert other.js(STATE) == "connecting"


def test_notices_move_nothing(server: Server, chrome: Chrome) -> None:
    watch(chrome, server, "agent:still", 1)
    where = "document.querySelector('main').getBoundingClientRect().top"
    before = chrome.js(where)
    chrome.js("location.hash = '#agent:still,agent:*'")
    chrome.wait("document.getElementById('notices').children.length > 0")
    chrome.js("document.querySelector('.room[data-joined=refused] button').click()")
    assert chrome.js("document.getElementById('notices').children.length") > 0
    assert chrome.js(where) == before


def test_a_refused_origin_says_why(server: Server, chrome: Chrome) -> None:
    with RenamingProxy(server.port) as proxy:
        chrome.open(f"http://127.0.0.1:{proxy.port}/")
        chrome.wait("document.getElementById('facts').textContent.includes('not in WEBSOCKET_CORS_ORIGIN')", 30)
        assert chrome.js(STATE) == "connecting"
