"""Flask-SocketIO's options: accepted, mapped, or refused with the name of ours."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import engineio
import pytest
import socketio
from flask import Flask, session

from tests.harness import ROOT
from tests.polling import PollingClient
from wsapp.errors import SettingsError
from wsapp.server import SocketServer
from wsapp.settings import SPECS
from wsapp.stock.options import OPTIONS, split_options


def test_every_option_of_the_library_has_an_answer() -> None:
    """A new version of python-socketio or python-engineio may bring further ones."""
    described = (ROOT / "docs" / "flask-socketio.md").read_text()
    assert [name for name in OPTIONS if f"`{name}" not in described] == []
    theirs = {name for each in (socketio.base_server.BaseServer, engineio.base_server.BaseServer)
              for name, parameter in inspect.signature(each.__init__).parameters.items()
              if parameter.kind is parameter.POSITIONAL_OR_KEYWORD} - {"self"}
    assert theirs - OPTIONS.keys() - SPECS.keys() == set()


@pytest.mark.parametrize(("given", "setting", "value"), [
    ({"cors_allowed_origins": "*"}, "websocket_cors_origin", ("*",)),
    ({"cors_allowed_origins": ["https://a.example"]}, "websocket_cors_origin", ("https://a.example",)),
    ({"cors_allowed_origins": None}, "websocket_cors_origin", ()),
    ({"ping_interval": 7, "ping_timeout": 3}, "ping_interval", 7.0),
    ({"max_http_buffer_size": 5_000_000}, "max_message", 5_000_000),
    ({"channel": "mine"}, "channel", "mine"),
    ({"path": "live/socket.io"}, "socket_path", "/live/socket.io/"),
    ({"transports": ["websocket"]}, "transports", ("websocket",)),
    ({"allow_upgrades": False}, "allow_upgrades", False),
])
def test_mapped(given: dict[str, Any], setting: str, value: object) -> None:
    assert getattr(SocketServer(Flask("host"), **given).settings, setting) == value


def test_the_message_queue_is_the_redis() -> None:
    assert split_options({"message_queue": "redis://h:1"}) == ({"redis_url": "redis://h:1"}, {})


def test_the_libraries_own_defaults_are_accepted() -> None:
    defaults = {name: parameter.default
                for each in (socketio.base_server.BaseServer, engineio.base_server.BaseServer)
                for name, parameter in inspect.signature(each.__init__).parameters.items()
                if parameter.default is not parameter.empty}
    SocketServer(Flask("host"), **defaults)


@pytest.mark.parametrize(("given", "told"), [
    ({"async_mode": "threading"}, "wsapp runs on gevent"),
    ({"cors_allowed_origins": []}, r"'\*' for any"),
    ({"cors_allowed_origins": print}, "connect handler"),
    ({"cors_allowed_origins": "*", "websocket_cors_origin": "*"}, "websocket_cors_origin, which is given too"),
    ({"cors_credentials": False}, "WEBSOCKET_CORS_ORIGIN"),
    ({"cookie": "io"}, "wsapp sets no cookie"),
    ({"http_compression": False}, "WSAPP_DEFLATE"),
    ({"compression_threshold": 1}, "WSAPP_DEFLATE_THRESHOLD"),
    ({"monitor_clients": False}, "PING_INTERVAL"),
    ({"serializer": "msgpack"}, "serializer='msgpack' is not possible"),
    ({"json": logging}, "strict JSON"),
    ({"client_manager": object()}, "REDIS_URL"),
    ({"engineio_logger": logging.getLogger()}, r"wsapp\.transport"),
    ({"message_queue": "amqp://h"}, "redis://"),
    ({"ping_interval": (25, 5)}, "is not a number"),
])
def test_refused_with_the_fix(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        SocketServer(Flask("host"), **given)


def test_the_engines_log_can_be_seen() -> None:
    try:
        split_options({"engineio_logger": True})
        assert logging.getLogger("wsapp.transport.engine").isEnabledFor(logging.DEBUG)
    finally:
        logging.getLogger("wsapp.transport").setLevel(logging.NOTSET)


class Host:
    """An app with options, its server started, and clients."""

    def __init__(self, **options: Any) -> None:
        self.app = Flask("host")
        self.app.secret_key = "k"
        self.server = SocketServer(self.app, **options)
        self.socketio = self.server.socketio

    def client(self) -> PollingClient:
        self.server.start()
        return PollingClient(self.app)


@pytest.mark.parametrize("managed", [True, False])
def test_manage_session(managed: bool) -> None:
    host = Host(manage_session=managed)

    @host.socketio.on("put")
    def put(value: Any) -> Any:
        session["value"] = value
        return value

    @host.socketio.on("get")
    def get() -> Any:
        return session.get("value", "nothing")
    client = host.client()
    try:
        client.connect()
        client.ask("put", 7)
        assert client.ask("get") == (7 if managed else "nothing")  # Flask's own is a cookie, which no event can set
    finally:
        host.server.shutdown()


@pytest.mark.parametrize("name", ["/", "/chat"])
@pytest.mark.parametrize("always", [True, False])
def test_always_connect(always: bool, name: str) -> None:
    host = Host(always_connect=always)

    @host.socketio.on("connect", namespace=name)
    def connect() -> bool:
        host.socketio.emit("sorry", namespace=name)
        return False
    client = host.client()
    try:
        where = "" if name == "/" else f"{name},"
        client.send(f"40{where}")
        if not always:
            assert client.next().startswith(f'44{where}{{"message"')
            return
        assert client.next().startswith(f'40{where}{{"sid"')
        assert client.next() == f'42{where}["sorry"]'
        assert client.next() == f"41{where}"
    finally:
        host.server.shutdown()


def test_namespaces_without_handlers() -> None:
    host = Host(namespaces="*")
    client = host.client()
    try:
        client.send("40/any,")
        assert client.next().startswith('40/any,{"sid"')
    finally:
        host.server.shutdown()


def test_the_path_and_the_transports() -> None:
    host = Host(path="live/socket.io", transports=["websocket"])
    host.server.start()
    try:
        http = host.app.test_client()
        assert http.get("/socket.io/?EIO=4&transport=polling").status_code == 404
        refused = http.get("/live/socket.io/?EIO=4&transport=polling")
        assert (refused.status_code, refused.json["code"]) == (400, 0)
        assert "WSAPP_TRANSPORTS" in refused.json["message"]
    finally:
        host.server.shutdown()
