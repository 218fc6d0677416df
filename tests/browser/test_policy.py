"""The live page under its Content-Security-Policy, over TLS that ends in gunicorn (plain: test_page.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chrome import Chrome, find_chromium
from tests.certificate import Authority
from tests.harness import Server

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (on Debian: apt-get install chromium)"),
]

WATCH = """
window.violations = [], window.opened = [];
addEventListener("securitypolicyviolation", event => violations.push(event.violatedDirective + " " + event.blockedURI));
window.WebSocket = class extends WebSocket {
  constructor(...given) { super(...given); this.addEventListener("open", () => opened.push(this.url)); }
};
"""
INLINE = """
const script = document.createElement("script");
script.textContent = "window.intruded = true";
document.body.append(script);
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    authority = Authority(tmp_path)
    signed = authority.sign("server")
    env = {"WSAPP_TLS_CERTIFICATE": str(signed.certificate), "WSAPP_TLS_KEY": str(signed.key)}
    with Server(workers=2, env=env, ca=authority.path) as running:
        yield running


def test_the_page_lives_under_its_policy(server: Server) -> None:
    assert CHROMIUM is not None
    with Chrome(CHROMIUM) as chrome:
        chrome.call("Security.setIgnoreCertificateErrors", ignore=True)
        chrome.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        chrome.open(f"{server.url}/#agent:coder,task:t1,project:p1")
        chrome.wait("document.querySelectorAll('.room[data-joined=yes]').length === 3", 30)
        chrome.wait("opened.length === 1", 30)
        assert chrome.js("opened[0]").startswith(server.url.replace("http", "ws"))
        server.emitter.broadcast_agent_thought({"agentId": "coder", "thought": "seen"})
        server.emitter.broadcast_task_update({"taskId": "t1", "status": "in_progress", "progress": 40})
        server.emitter.broadcast_project_event("p1", "built", {"version": "1.2"})
        chrome.wait("document.querySelector('#thoughts p')?.textContent === 'seen'")
        chrome.wait("document.querySelector('#tasks li[data-status=in_progress]') !== null")
        chrome.wait("document.querySelectorAll('#events li:not(.none)').length === 1")
        assert chrome.js("violations") == []
        assert chrome.errors == []
        chrome.js(INLINE)
        chrome.wait("violations.length === 1")
        assert chrome.js("window.intruded") is None
