"""Our routes in somebody's application: below a prefix, beside its own, and never hidden."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest
from flask import Flask

from tests.blueprints.conftest import Place
from wsapp.errors import SettingsError
from wsapp.server import SocketServer


@pytest.fixture
def servers(place: Place) -> Iterator[list[SocketServer]]:
    made: list[SocketServer] = []
    yield made
    for server in made:
        server.shutdown()


def served(servers: list[SocketServer], *own: str, **settings: Any) -> Flask:
    """A started app with routes of its own."""
    app = Flask("host")
    for path in own:
        app.add_url_rule(path, f"own {path}", lambda: "mine")
    server = SocketServer(app, **settings)
    servers.append(server)
    server.start()
    return app


def test_one_prefix_for_all(servers: list[SocketServer]) -> None:
    http = served(servers, "/", "/healthz", "/metrics", wsapp_prefix="/rt").test_client()
    assert [http.get(path).text for path in ("/", "/healthz", "/metrics")] == ["mine"] * 3
    for path in ("/rt/", "/rt/live", "/rt/live/app.js", "/rt/healthz", "/rt/readyz", "/rt/metrics",
                 "/rt/api/v1/openapi.json"):
        assert http.get(path).status_code == 200, path
    assert http.get("/rt/api/v1/nothing").mimetype == "application/problem+json"
    assert http.get("/api/v1/nothing").mimetype == "text/html"  # the host's own error page
    assert http.get("/rt/api/v1/openapi.json").json["servers"] == [{"url": "/rt/api/v1"}]


@pytest.mark.parametrize(("prefix", "script", "at"), [
    ("", "", "/"), ("", "", "/live"), ("/rt", "", "/rt/"), ("/a/b", "", "/a/b/live"), ("", "/app", "/"),
    ("/rt", "/app", "/rt/")])
def test_the_page_finds_what_it_loads_and_the_sockets(servers: list[SocketServer], prefix: str, script: str,
                                                      at: str) -> None:
    http = served(servers, wsapp_prefix=prefix, path="sockets").test_client()
    page = http.get(at, base_url=f"http://h{script}")
    url = f"http://h{script}{at}"
    loaded = [urljoin(url, path) for path in re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)]
    assert len(loaded) >= 3
    for each in loaded:
        path = each.removeprefix(f"http://h{script}")
        assert http.get(path, base_url=f"http://h{script}").status_code == 200, each
    told = re.search(r'name="socket-path" content="([^"]+)"', page.text)
    assert told
    assert urljoin(url, told[1]) == f"http://h{script}/sockets"


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/live", "/api/v1/publish"])
def test_a_collision_is_an_error_with_the_fix(servers: list[SocketServer], path: str) -> None:
    if path == "/api/v1/publish":
        app = Flask("host")
        app.add_url_rule(path, "own", lambda: "mine", methods=["POST"])
        server = SocketServer(app)
        with pytest.raises(SettingsError, match="WSAPP_PREFIX"):
            server.start()
        return
    with pytest.raises(SettingsError, match=f"{path}.*WSAPP_PREFIX=/wsapp"):
        served(servers, path)


def test_other_methods_and_patterns_do_not_collide(servers: list[SocketServer]) -> None:
    app = Flask("host")
    app.add_url_rule("/metrics", "own", lambda: "mine", methods=["POST"])
    app.add_url_rule("/<path:any>", "all", lambda any: any)
    servers.append(SocketServer(app))
    servers[0].start()
    http = app.test_client()
    assert http.post("/metrics").text == "mine"
    assert http.get("/healthz").json == {"status": "alive"}
    assert http.get("/else").text == "else"
