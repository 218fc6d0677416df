"""`socketio.run(app)`, `server.run()`, `app.run()` and `flask run`, as a developer starts them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from flask import Flask

from tests.clients.fleet import Fleet
from tests.clients.node_client import Node
from tests.harness import Server, wait_until
from tests.stock.program import Program
from wsapp.server import SocketServer
from wsapp.settings import load_settings
from wsapp.stock.running import Run, Runner, read_options

FLASK = ("-m", "flask", "--app", "web", "run", "-p", "PORT")
WAYS = {
    "socketio": ("server.socketio.run(app, port=PORT)", ("web.py",)),
    "server": ("server.run(port=PORT)", ("web.py",)),
    "app": ("app.run(port=PORT, threaded=True)", ("web.py",)),
    "module": ("server.socketio.run(app, host='127.0.0.1', port=PORT, allow_unsafe_werkzeug=True)", ("-m", "web")),
    "flask run": ("", FLASK),
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Node() as node, Fleet(node) as made:
        yield made


def served_fully(program: Program, fleet: Fleet) -> None:
    """Every transport connects, subscribes and gets events."""
    server = cast(Server, program)
    for transport in ("websocket", "polling", "upgrade"):
        client = fleet.npm(server, transport)
        assert client.request("echo", transport) == transport
        assert client.request("subscribe-agent", "a")["ok"] is True
        wait_until(lambda: client.transport() == ("polling" if transport == "polling" else "websocket"),  # noqa: B023
                   transport)
        client.close()
    assert program.get("/readyz").json()["status"] == "ready"
    assert program.get("/patched").text == "True"


@pytest.mark.node
@pytest.mark.parametrize("way", WAYS)
def test_all_ways_serve_all_transports(tmp_path: Path, fleet: Fleet, way: str) -> None:
    main, arguments = WAYS[way]
    with Program(tmp_path, main, arguments) as program:
        served_fully(program, fleet)
        assert program.said(f"the page is at http://localhost:{program.port}/")
        waiting = fleet.npm(cast(Server, program), reconnection=False)
        program.process.send_signal(signal.SIGINT if way == "server" else signal.SIGTERM)
        assert program.process.wait(30) == 0
        assert waiting.wait_for("server-shutdown")


@pytest.mark.node
@pytest.mark.parametrize("way", ["flask run", "socketio"])
def test_a_changed_file_is_served_again(tmp_path: Path, fleet: Fleet, way: str) -> None:
    """Also after a file that could not be loaded; what the debugger shows is Werkzeug's page."""
    main, arguments = ("", (*FLASK, "--debug")) if way == "flask run" else (
        "server.socketio.run(app, port=PORT, debug=True)", ("web.py",))
    with Program(tmp_path, main, arguments) as program:
        served_fully(program, fleet)
        assert program.word() == "one"
        assert "Werkzeug Debugger" in program.get("/broken").text
        (tmp_path / "words.py").write_text("WORD = 'another'\n")
        wait_until(lambda: program.word() == "another", "the change", 60)
        served_fully(program, fleet)
        children = psutil.Process(program.process.pid).children(recursive=True)
        assert children
        os.killpg(program.process.pid, signal.SIGINT)  # as a terminal's Ctrl-C
        assert program.process.wait(30) == 0
        assert not any(child.is_running() for child in psutil.wait_procs(children, timeout=30)[1])


def test_stop_ends_it(tmp_path: Path, fleet: Fleet) -> None:
    with Program(tmp_path, *WAYS["socketio"]) as program:
        fleet.npm(cast(Server, program), reconnection=False).emit("stop")
        assert program.process.wait(30) == 0


@pytest.mark.parametrize(("given", "wanted"), [
    ({}, Run()),
    ({"allow_unsafe_werkzeug": True, "threaded": True}, Run()),
    ({"extra_files": ["a"], "reloader_type": "stat", "reloader_options": {"interval": 2}},
     Run(reloader={"extra_files": ["a"], "reloader_type": "stat", "interval": 2})),
    ({"ssl_context": ("c.pem", "k.pem")}, Run(certfile="c.pem", keyfile="k.pem")),
    ({"use_reloader": False, "log_output": True}, Run(use_reloader=False, log_output=True)),
])
def test_options(given: dict[str, Any], wanted: Run) -> None:
    assert read_options(False, given) == wanted


@pytest.mark.parametrize(("given", "told"), [
    ({"ssl_context": "adhoc"}, r"\(certfile, keyfile\)"), ({"pool_size": 3}, "pool_size: not an option")])
def test_no_options(given: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        read_options(False, given)


@pytest.mark.parametrize(("how", "settings", "bind"), [
    (Run(), {}, "127.0.0.1:5000"), (Run(port=0), {}, "127.0.0.1:0"), (Run("::1", 80), {}, "[::1]:80"),
    (Run(), {"WSAPP_BIND": "10.0.0.1", "WEBSOCKET_PORT": "8000"}, "10.0.0.1:8000"),
    (Run("127.0.0.1", 1), {"WSAPP_BIND": "10.0.0.1", "WEBSOCKET_PORT": "8000"}, "127.0.0.1:1"),
    (Run(), {"WSAPP_BIND": "unix:/run/x"}, "unix:/run/x")])
def test_where_to_listen(how: Run, settings: dict[str, str], bind: str) -> None:
    assert how.bind(Flask("host"), load_settings(settings)) == bind


def test_the_port_of_the_server_name() -> None:
    app = Flask("host")
    app.config["SERVER_NAME"] = "host.example:8080"
    assert Run().bind(app, load_settings({})) == "127.0.0.1:8080"


def test_not_while_gunicorn_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Flask("host")
    server = SocketServer(app)
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/27")
    with pytest.raises(RuntimeError, match="__main__"):
        Runner(app, server.settings, server.socketio.sockio_mw).run(Run())
