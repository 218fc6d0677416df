"""The live page and what it loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.blueprints.conftest import Place
from wsapp.blueprints.pages import publish_command
from wsapp.settings import load_settings


def test_the_page_and_everything_it_loads_is_there(place: Place) -> None:
    http = place.app.test_client()
    page = http.get("/")
    assert page.status_code == 200
    assert page.mimetype == "text/html"
    loaded = re.findall(r"""(?:src|href)=["'](live/[^"']+)""", page.text)
    assert loaded
    assert {http.get("/" + path).status_code for path in loaded} == {200}


def test_the_page_asks_no_other_host(place: Place) -> None:
    page = place.app.test_client().get("/").text
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)


def test_every_module_of_the_page_is_there(place: Place) -> None:
    http = place.app.test_client()
    known, new = set(), {"app.js"}
    while new:
        name = new.pop()
        known.add(name)
        script = http.get("/live/" + name)
        assert (script.status_code, script.mimetype) == (200, "text/javascript")
        new |= set(re.findall(r'from "\./([^"]+)"', script.text)) - known
    assert len(known) > 5


def test_the_command_works_in_the_directory_of_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    private = load_settings({"WSAPP_EMBEDDED_URL": "redis://127.0.0.1:6400/0"})
    given = load_settings({"REDIS_URL": "redis://:secret@redis:6379/0"})
    monkeypatch.chdir(tmp_path)
    assert publish_command(load_settings({}), "4101") == "", "only the server's own process can publish"
    assert publish_command(private, "4101") == "WEBSOCKET_PORT=4101 wsapp"
    assert publish_command(private, "3001") == "wsapp"
    assert publish_command(given, "4101") == "wsapp", "REDIS_URL is not shown"
    program = tmp_path / "venv" / "bin" / "wsapp"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    assert publish_command(private, "4101") == "WEBSOCKET_PORT=4101 venv/bin/wsapp"
