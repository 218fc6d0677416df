"""Hosts in one process: a server each, on real sockets, that answers with its name, and forwards to the others."""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import gevent.socket
import gevent.ssl
from gevent.pool import Pool

from wsapp.transport.departure import Departure
from wsapp.transport.hosts.forwarder import Forwarder
from wsapp.transport.hosts.route import ForwardingOptions, Route, client_context
from wsapp.transport.tunnel import TlsFront
from wsapp.transport.websocket import switch_protocols
from wsapp.transport.worker import Handler, Server


class Log(logging.Logger):
    """gunicorn's log, as far as its handler uses it."""

    access_log_enabled = False


class Known:
    """Where everybody is."""

    def __init__(self, secret: bytes = b"shared") -> None:
        self.secret, self.routes = secret, dict[str, Route]()

    options = ForwardingOptions()

    def find(self, token: str) -> Route | None:
        return self.routes.get(token)


class Site:
    """One host with one worker.  `seen` are the environs that its application got."""

    def __init__(self, token: str, known: Known, most: int = 100, patience: float = 5.0,
                 tls: ssl.SSLContext | None = None, certificate: str = "") -> None:
        self.token, self.counts = token, Counter[str]()
        self.seen: list[dict[str, Any]] = []
        self.left = 0  # clients that hung up on `/socket.io/wait`
        listener = gevent.socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        self.address = listener.getsockname()
        given = {"ssl_context": tls} if tls is not None else {}
        self.server = Server(listener, application=self.answer, spawn=Pool(50), log=Log("test"), handler_class=Handler,
                             environ={"wsgi.multithread": True}, **given)
        self.server.own_paths = ("/socket.io/",)
        if tls is not None:
            self.server.tls = TlsFront(tls)
        self.forwarder = self.server.forwarder = Forwarder(
            [known], [token], ("/socket.io/",), ForwardingOptions(most, patience, 5.0), self._count, client_context())
        known.routes[token] = Route(*self.address, frozenset({certificate} if certificate else ()))
        self.server.start()

    def _count(self, name: str) -> None:
        self.counts[name] += 1

    def answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.seen.append(environ)
        path = environ["PATH_INFO"].removeprefix("/socket.io/")
        if path == "ws":
            sock, early = switch_protocols(environ["wsapp.handler"], [("X-Owner", self.token)], b"hello ")
            gevent.spawn(echo, gevent.socket.socket(fileno=sock.detach()), early)
            return []
        if path == "wait":
            self._wait(environ)
        body = f"{self.token} {environ['REQUEST_METHOD']} ".encode() + environ["wsgi.input"].read()
        if path == "empty":
            start_response("204 No Content", [])
            return []
        start_response("200 OK", [("Content-Length", str(len(body))), ("X-Owner", self.token)])
        return [body]

    def _wait(self, environ: dict[str, Any]) -> None:
        gone = gevent.event.Event()
        with Departure(environ["wsapp.handler"].socket, gone.set):
            if gone.wait(20):
                self.left += 1

    def stop(self) -> None:
        self.server.stop(timeout=0.1)
        self.forwarder.close()


def echo(sock: Any, early: bytes) -> None:
    """What a WebSocket's owner does."""
    data = early
    while True:
        if data:
            sock.sendall(data)
        data = sock.recv(65_536)
        if not data:
            sock.close()
            return


class Client:
    """A bare one."""

    def __init__(self, site: Site, tls: bool = False) -> None:
        sock = gevent.socket.create_connection(site.address)
        if tls:
            context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = context.wrap_socket(sock)
        self.sock = sock
        self.sock.settimeout(5)
        self.file = self.sock.makefile("rb")
        self.fields: dict[str, str] = {}

    def send(self, sid: str = "", method: str = "GET", body: bytes = b"", path: str = "", *fields: str) -> None:
        head = [f"{method} /socket.io/{path}?EIO=4{'&sid=' + sid if sid else ''} HTTP/1.1", "Host: site.example",
                f"Content-Length: {len(body)}", *fields]
        self.sock.sendall("\r\n".join([*head, "", ""]).encode() + body)

    def head(self) -> int:
        """The code of the answer whose head comes next; its fields are in `fields`."""
        status = self.file.readline()
        self.fields = {}
        while (line := self.file.readline().decode().strip()):
            name, _, value = line.partition(": ")
            self.fields[name.lower()] = value
        return int(status.split()[1]) if status else 0

    def ask(self, *given: Any) -> tuple[int, bytes]:
        """`send`, and the answer."""
        self.send(*given)
        return self.read()

    def read(self) -> tuple[int, bytes]:
        """The next answer."""
        code = self.head()
        return code, self.file.read(int(self.fields.get("content-length", 0)))

    def close(self) -> None:
        self.file.close()
        self.sock.close()
