"""The gunicorn worker: gevent's pywsgi server, with sessions found across workers and a drain on SIGTERM.

`worker_class = "wsapp.transport.worker.Worker"`.  Plain gevent workers won't do: their upgrade path answers 500 or
silently leaves clients on polling, and their SIGTERM cuts every open socket.
"""

from __future__ import annotations

import gc
import logging
import os
import socket as stdlib_socket
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol

import gevent
from gevent import pywsgi
from gevent.event import Event
from gevent.pool import Pool
from gevent.socket import wait_read
from geventwebsocket.handler import WebSocketHandler
from gunicorn.http.wsgi import base_environ
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import VERSION, GeventPyWSGIWorker, PyWSGIHandler, PyWSGIServer

from wsapp.transport.balance import STEP_ASIDE, Balance
from wsapp.transport.handoff import (
    Handoff,
    directory_for,
    has_buffered,
    peek_request_line,
    request_reader,
)

log = logging.getLogger(__name__)

REQUEST_WAIT: Final = 75.0  # seconds a kept-alive HTTP connection may be silent
REQUEST_TIMEOUT: Final = 15.0  # seconds for a request's head, and again for its body
SLOWEST: Final = 50_000  # bytes of a body for which it gets a second more
LATE: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
GC_YOUNG: Final = 5_000  # new objects between two looks for young cycles
QUICK_DRAIN: Final = 1.0  # seconds for a drain on Ctrl-C


class Service(Protocol):
    """What a worker starts and drains: a SocketServer."""

    path_prefix: str
    store: str

    @property
    def token(self) -> str: ...

    def start(self) -> None: ...
    def connection_count(self) -> int: ...
    def drain(self, timeout: float | None = None) -> None: ...
    def shutdown(self) -> None: ...


class Passes(Protocol):
    """Knows whose a request is, and passes it on."""

    def alone(self) -> bool: ...
    def owner_of(self, request_line: bytes) -> str | None: ...
    def give(self, owner: str, sock: Any, address: Any) -> bool: ...


_services: weakref.WeakSet[Any] = weakref.WeakSet()


def register(service: Service) -> None:
    """Have a service started by the worker that serves it; called by `SocketServer.init_app`."""
    _services.add(service)


def services() -> list[Service]:
    """All services of this process."""
    return list(_services)


class Handler(PyWSGIHandler, WebSocketHandler):  # type: ignore[misc]  # neither has types
    """One HTTP connection.  Requests for a colleague's session are passed on before a byte of them is read.

    WebSocket requests of wsapp are judged by its engine before they are upgraded; those of the host application's own
    routes get gevent-websocket's `environ["wsgi.websocket"]` as ever.
    """

    socket: Any
    timed_out = False
    _served = _reading_body = False
    _watcher: Any = None

    def __init__(self, sock: Any, address: Any, server: Any, rfile: Any = None) -> None:
        super().__init__(sock, address, server, rfile or request_reader(sock))

    def handle_one_request(self) -> Any:
        try:
            self._await_request()
            self._reading_body = False
            self._watch(self.server.request_timeout)
            if self._passed_on():
                return None
            return super().handle_one_request()
        except (OSError, gevent.Timeout):
            return None
        finally:
            self._stop_watching()
            self._served = True

    def _await_request(self) -> None:
        """Wait for the first byte: of a fresh connection not long.  Raises OSError or gevent.Timeout on silence."""
        patience = REQUEST_WAIT if self._served else self.server.request_timeout
        if has_buffered(self.rfile):
            return
        if hasattr(self.socket, "_sslobj"):  # what was decrypted already can't be seen from its descriptor
            with gevent.Timeout(patience):
                self.rfile.peek(1)
        else:
            wait_read(self.socket.fileno(), patience, TimeoutError("no request came"))

    def _watch(self, seconds: float) -> None:
        self._stop_watching()
        self._watcher = gevent.get_hub().loop.timer(seconds)
        self._watcher.start(self._late)

    def _stop_watching(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    def _late(self) -> None:
        """A head or a body that trickles in is cut off (slowloris); called by the hub, so nothing may block."""
        if self.socket is None or (self._reading_body and self._body_is_there()):
            return
        self.timed_out = True
        self.server.on_timeout()
        try:
            if not self._reading_body:
                self.socket._sock.send(LATE)
            self.socket._sock.shutdown(stdlib_socket.SHUT_RD)  # the reader sees the end
        except OSError as error:
            log.debug("a slow client is gone: %s", error)

    def _body_is_there(self) -> bool:
        body: Any = self.wsgi_input
        if body.chunked_input:
            return bool(body.chunk_length == 0)
        return bool(body.position >= (body.content_length or 0))

    def _passed_on(self) -> bool:
        handoff: Passes | None = self.server.handoff
        if handoff is None or handoff.alone() or has_buffered(self.rfile):
            return False
        line = peek_request_line(self.socket, self.server.request_timeout)
        owner = handoff.owner_of(line)
        if owner is None or not handoff.give(owner, self.socket, self.client_address):
            return False
        # Our copy only: shutdown, or the clean-up read of pywsgi, would take it from its new owner.
        self.socket.close()
        self.socket = None
        return True

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ["wsapp.handler"] = self
        self._reading_body = True
        if self.wsgi_input.chunked_input or self.wsgi_input.content_length:
            self._watch(self.server.request_timeout + (self.wsgi_input.content_length or 0) / SLOWEST)
        else:
            self._stop_watching()
        return environ

    def run_application(self) -> Any:
        if self.path.startswith(self.server.own_paths):
            return pywsgi.WSGIHandler.run_application(self)
        return WebSocketHandler.run_application(self)


class Server(PyWSGIServer):  # type: ignore[misc]  # gunicorn has no types
    """The listening side of one worker."""

    handoff: Passes | None = None
    own_paths: tuple[str, ...] = ()
    request_timeout = REQUEST_TIMEOUT
    on_timeout: Callable[[], None] = staticmethod(lambda: None)
    balance: Balance | None = None
    connections: Callable[[], int] = staticmethod(lambda: 0)
    _pause: Any = None
    _stepped_aside = 0.0

    def _do_read(self) -> None:
        now = time.monotonic()
        if self.balance is None or now - self._stepped_aside < 2 * STEP_ASIDE:
            super()._do_read()
        elif self.balance.is_ahead(self.connections() + len(self.pool)):
            self._stepped_aside = now
            self.stop_accepting()
            if self._pause is not None:
                self._pause.close()
            self._pause = gevent.get_hub().loop.timer(STEP_ASIDE)
            self._pause.start(self._start_accepting_if_started)
        else:
            super()._do_read()

    def adopt(self, sock: Any, address: Any) -> None:
        """Serve a connection that a colleague accepted."""
        self.handle(sock, address)


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]  # gunicorn has no types
    """Starts the services, serves, and on SIGTERM lets them say goodbye before the sockets close."""

    server_class = Server
    wsgi_handler = Handler

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wake: Event | None = None
        self._balance: Balance | None = None
        self._hurry = False

    def run(self) -> None:
        """Serve until told to stop, then drain."""
        self._log_with_gunicorn()
        self._wake = Event()
        hosted = services()
        if self.cfg.workers > 1:
            self._balance = Balance(directory_for(os.getppid()), self.age)
        for service in hosted:
            service.start()
        servers = [self._server(sock, hosted) for sock in self.sockets]
        handoffs = self._handoffs(servers, hosted)
        _tune_collector()
        for server in servers:
            server.start()
        if self._balance is not None:
            self._balance.is_ahead(0)  # from here on the others count on this one
        for service in hosted:
            log.info("wsapp worker %s is up: %s", service.token, service.store)
        while self.alive:
            self.notify()
            self._wake.wait(1.0)
        self._stop(servers, hosted)
        if self._balance is not None:
            self._balance.close()
        for handoff in handoffs:
            handoff.stop()

    def _log_with_gunicorn(self) -> None:
        """What wsapp logs goes where gunicorn's own log goes, unless the application has arranged it otherwise."""
        ours = logging.getLogger("wsapp")
        if not ours.handlers and not logging.getLogger().handlers:
            ours.handlers = list(self.log.error_log.handlers)
            ours.setLevel(self.log.error_log.level)
            ours.propagate = False

    def _server(self, sock: Any, hosted: list[Service]) -> Server:
        sock.setblocking(1)
        environ = {**base_environ(self.cfg), "wsgi.multithread": True, "SERVER_SOFTWARE": VERSION}
        tls = {"ssl_context": ssl_context(self.cfg)} if self.cfg.is_ssl else {}
        server = self.server_class(sock, application=self.wsgi, spawn=Pool(self.worker_connections), log=self.log,
                                   handler_class=self.wsgi_handler, environ=environ, **tls)
        if self.cfg.workers > 1:
            server.max_accept = 1
            server.balance = self._balance
            server.connections = lambda: sum(service.connection_count() for service in hosted)
        server.request_timeout = min((getattr(service, "request_timeout", REQUEST_TIMEOUT) for service in hosted),
                                     default=REQUEST_TIMEOUT)
        server.on_timeout = next((service.request_timed_out for service in hosted
                                  if hasattr(service, "request_timed_out")), server.on_timeout)
        server.own_paths = tuple(service.path_prefix for service in hosted)
        return server

    def _handoffs(self, servers: list[Server], hosted: list[Service]) -> list[Handoff]:
        if self.cfg.is_ssl:
            # Under TLS the request line can't be peeked at.
            if self.cfg.workers > 1:
                self.log.warning("TLS with several workers: long-polling needs a sticky balancer, WebSockets don't")
            return []
        directory = directory_for(os.getppid())
        made = [Handoff(directory, service.token, servers[0].adopt) for service in hosted]
        for handoff in made:
            handoff.start()
        if len(made) == 1:
            for server in servers:
                server.handoff = made[0]
        elif made:
            several = SeveralHandoffs(made)
            for server in servers:
                server.handoff = several
        return made

    def _stop(self, servers: list[Server], hosted: list[Service]) -> None:
        for server in servers:
            server.close()
        drains = [gevent.spawn(service.drain, QUICK_DRAIN if self._hurry else None) for service in hosted]
        while not all(drain.ready() for drain in drains):
            self.notify()
            gevent.joinall(drains, timeout=0.5)
        for service in hosted:
            service.shutdown()
        for server in servers:
            server.stop(timeout=0.2)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: stop accepting, drain, exit."""
        self.alive = False
        if self._wake is not None:
            gevent.get_hub().loop.run_callback_threadsafe(self._wake.set)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGINT and SIGQUIT: the same, in a hurry."""
        self._hurry = True
        self.handle_exit(sig, frame)


def _tune_collector() -> None:
    """What is there now stays: it is never looked at again.  Connections are freed by their counts, so cycles are
    looked for seldom; each look costs time in proportion to all connections."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG, 20, 50)


class SeveralHandoffs:
    """The hand-off of a process with several services: each has its own token."""

    def __init__(self, handoffs: list[Handoff]) -> None:
        self._own = {handoff.token for handoff in handoffs}
        self._first = handoffs[0]

    def alone(self) -> bool:
        """Not looked up: several services in one process are rare."""
        return False

    def owner_of(self, request_line: bytes) -> str | None:
        owner = self._first.owner_of(request_line)
        return None if owner in self._own else owner

    def give(self, owner: str, sock: Any, address: Any) -> bool:
        return self._first.give(owner, sock, address)


