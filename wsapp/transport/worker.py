"""The gunicorn worker: gevent's pywsgi server, with sessions found across workers and a drain on SIGTERM.

`worker_class = "wsapp.transport.worker.Worker"`.  Plain gevent workers won't do: their upgrade path answers 500 or
silently leaves clients on polling, and their SIGTERM cuts every open socket.
"""

from __future__ import annotations

import atexit
import gc
import logging
import math
import os
import signal
import socket as stdlib_socket
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Protocol

import gevent
from gevent import pywsgi
from gevent.event import Event
from gevent.pool import Group, Pool
from gevent.socket import wait_read
from gunicorn.arbiter import Arbiter
from gunicorn.http.wsgi import base_environ
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import VERSION, GeventPyWSGIWorker, PyWSGIHandler, PyWSGIServer

from wsapp.core.limited_log import LimitedLog
from wsapp.core.throttle import Bucket
from wsapp.errors import Incompatible, SettingsError
from wsapp.transport import runtime_directory
from wsapp.transport.balance import DRAINED, STEP_ASIDE, Balance
from wsapp.transport.gate import client_address
from wsapp.transport.guest import Application, GuestOptions, invite, turn_away, wants_websocket
from wsapp.transport.handoff import MAX_REQUEST_LINE, Handoff, has_buffered, request_reader, take_buffered
from wsapp.transport.hosts.forwarder import Forwarder
from wsapp.transport.hosts.route import Listening, Routes, certificate_of, client_context
from wsapp.transport.request_head import BadHead, Head, check_request_line, judge_fields, read_fields
from wsapp.transport.slots import OTHERS, PROBES, Slots, slots_for
from wsapp.transport.timed_writes import WRITE_TIMEOUT, TimedWrites
from wsapp.transport.tunnel import TlsFront
from wsapp.transport.websocket import HandshakeError

log = logging.getLogger(__name__)

REQUEST_WAIT: Final = 75.0  # seconds a kept-alive HTTP connection may be silent
REQUEST_TIMEOUT: Final = 15.0  # seconds for a request's head, and again for its body
SLOWEST: Final = 50_000  # bytes of a body that have arrived and give it a second more
LAST_BYTES: Final = 1.0  # seconds in which a body is still taken whose request was answered already
LAST_SIZE: Final = 65_536  # bytes of a body that are read though nobody wants them, to keep the connection
LATE: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
LEFT_TO_OTHERS: Final = 0.05  # seconds in which a drained worker leaves what comes to those that take it
TLS_DESCRIPTORS: Final = 3  # of a connection: its socket, and the pair behind which it is served
AT_ONCE: Final = 8  # connections accepted before the clients that are there have their turn; gevent takes 100
GC_YOUNG: Final = 5_000  # new objects between two looks for young cycles
DRAIN_LOOK: Final = 0.1  # seconds between looks at a drain
QUICK_DRAIN: Final = 1.0  # seconds for a drain on Ctrl-C
LAST_WORDS: Final = 1.0  # seconds after all drains in which TLS connections may come to their end
TUNNEL_LOOK: Final = 0.05  # seconds between looks whether they have


pywsgi.MAX_REQUEST_LINE = MAX_REQUEST_LINE + 1  # its own limit, of 8 kB, is answered without a word


class Service(Protocol):
    """What a worker starts and drains: a SocketServer."""

    path_prefix: str
    store: str
    drain_timeout: float

    @property
    def token(self) -> str: ...
    @property
    def draining(self) -> bool: ...
    @property
    def polled(self) -> bool: ...

    @property
    def routes(self) -> Routes | None: ...

    def start(self, listening: Listening) -> None: ...
    def announce(self, addresses: list[Any], scheme: str) -> None: ...
    def connection_count(self) -> int: ...
    def drain(self, timeout: float | None = None) -> None: ...
    def shutdown(self) -> None: ...


class Passes(Protocol):
    """Knows whose a request is, and passes it on."""

    def alone(self) -> bool: ...
    def owner_of(self, request_line: bytes) -> str | None: ...
    def give(self, owner: str, sock: Any, address: Any, early: bytes = b"") -> bool: ...


_services: weakref.WeakSet[Any] = weakref.WeakSet()


def register(service: Service) -> None:
    """Have a service started by the worker that serves it; called by `SocketServer.init_app`."""
    _services.add(service)


def services() -> list[Service]:
    """All services of this process."""
    return list(_services)


class Handler(TimedWrites, PyWSGIHandler):  # type: ignore[misc]  # gunicorn has no types
    """One HTTP connection.  Requests for a colleague's session are passed on as soon as their first line is there.

    WebSocket requests of wsapp are judged by its engine before they are upgraded; those of the host application's own
    routes find theirs in `environ["wsgi.websocket"]` (see `wsapp.transport.guest`).
    """

    socket: Any
    rfile: Any
    timed_out = False
    _served = _reading_body = False
    _body_began, _body_from = 0.0, 0  # when, and after how many bytes of the connection
    _watcher: Any = None

    def __init__(self, sock: Any, address: Any, server: Any, rfile: Any = None) -> None:
        super().__init__(sock, address, server, rfile or request_reader(sock))
        self._slot: Any = server.slots.enter(address, self._give_way)

    def handle(self) -> None:
        """Serve the connection until it ends, is passed on, or is a WebSocket."""
        if self._slot is None:
            return
        try:
            super().handle()
        finally:
            self._slot.leave()

    def _give_way(self) -> bool:
        """Others need the place of this connection, whose client says nothing.  False while it is answered."""
        if self.socket is None or self._reading_body and self._unread() <= 0:
            return False
        try:
            self.socket._sock.shutdown(stdlib_socket.SHUT_RDWR)
        except OSError as error:
            log.debug("a silent client is gone: %s", error)
        return True

    def handle_one_request(self) -> Any:
        try:
            self._reading_body = False
            self._slot.rest()
            self._await_request()
            self._watch(self.server.request_timeout)
            return super().handle_one_request()
        except BadHead as error:
            return self._handle_client_error(error)
        except (OSError, gevent.Timeout):
            return None
        finally:
            self._stop_watching()
            self._served = True

    def _await_request(self) -> None:
        """Wait for the first byte: of a fresh connection not long.  Raises OSError or gevent.Timeout on silence."""
        patience = REQUEST_WAIT if self._served else self.server.request_timeout
        if not has_buffered(self.rfile):
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
        if self.socket is None or (self._reading_body and self._unread() <= 0):
            return
        if self._reading_body and (left := self._earned()) > 0:
            self._watch(left)
            return
        self.timed_out = True
        self.server.on_timeout()
        try:
            if not self._reading_body:
                self.socket._sock.send(LATE)
            self.socket._sock.shutdown(stdlib_socket.SHUT_RD)  # the reader sees the end
        except OSError as error:
            log.debug("a slow client is gone: %s", error)

    def _earned(self) -> float:
        """Seconds that are left for the body.  They follow what has arrived, and not what the head announced."""
        arrived: int = self.rfile.raw.received - self._body_from
        return float(self.server.request_timeout) + arrived / SLOWEST - (time.monotonic() - self._body_began)

    def _unread(self) -> float:
        """Bytes of the body that the application has not taken; of a body in chunks, without end."""
        body: Any = self.wsgi_input
        if body.chunked_input:
            return 0.0 if body.chunk_length == 0 else math.inf
        return float((body.content_length or 0) - body.position)

    def read_requestline(self) -> str:
        """The request's first line; "" at the end of the connection, and of one that is a colleague's now.  Raises
        BadHead."""
        line: bytes = self.rfile.readline(MAX_REQUEST_LINE)
        if len(line) == MAX_REQUEST_LINE:
            raise BadHead(f"a request line may have {MAX_REQUEST_LINE} bytes", "414 URI Too Long")
        if not line.endswith(b"\n"):
            return ""  # the client has left, or was told that it is late
        return "" if self._passed_on(line) else line.decode("latin-1")

    def _passed_on(self, line: bytes) -> bool:
        handoff: Passes | None = self.server.handoff
        if handoff is None or handoff.alone():
            return False
        owner = handoff.owner_of(line)
        if owner is None:
            return False
        early = take_buffered(self.rfile)
        if not handoff.give(owner, self.socket, self.client_address, line + early):
            self.rfile = request_reader(self.socket, early)
            return False
        # Our copy only: shutdown, or the clean-up read of pywsgi, would take it from its new owner.
        self.socket.close()
        self.socket = None
        return True

    def read_request(self, raw_requestline: str) -> Any:
        """Judge the head before anything in it is believed.  Raises BadHead."""
        check_request_line(raw_requestline)
        read = super().read_request(raw_requestline)
        if "close" in self.headers.tokens("connection"):
            self.close_connection = True
        return read

    def MessageClass(self, rfile: Any, *_: Any) -> Any:  # noqa: N802  # pywsgi's name for its parser of the fields
        fields = read_fields(rfile)
        judge_fields(self.request_version, fields)
        return Head(fields)

    def _handle_client_error(self, error: Exception) -> tuple[str, bytes]:
        # Not pywsgi's, which logs the request line: a token may be in it.
        refused = error if isinstance(error, BadHead) else BadHead("the request is malformed")
        self.server.refusals.warning(str(self.client_address[:1]), "refused a request of %s: %s", self.client_address,
                                     refused)
        self.close_connection = True
        if not self._reading_body:
            self.socket.sendall(refused.answer())
            self._hang_up()
            while self.socket.recv(LAST_SIZE):
                continue
        return refused.status[:3], b""

    def log_request(self) -> None:
        if self.server.log.access_log_enabled:  # what it gathers for nothing costs a tenth of a handshake
            super().log_request()

    def write(self, data: bytes) -> None:
        """Send a part of the answer; to HEAD its head alone (RFC 9110 section 9.3.2)."""
        super().write(b"" if self.command == "HEAD" else data)

    def finalize_headers(self) -> None:
        super().finalize_headers()
        if self.command == "HEAD":
            self.response_use_chunked = False
        if self._unread() > LAST_SIZE:
            self.close_connection = True  # reading on for a body that nobody wants is work without a limit
        # RFC 9112 section 9.6: a client that pools connections must know that this one is not to be used again.
        told = [value.lower() for name, value in self.response_headers if name.lower() == b"connection"]
        if b"close" in told:
            self.close_connection = True
        elif self.close_connection and self.code != 101 and not told:
            self.response_headers.append((b"Connection", b"close"))

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ["wsapp.handler"] = self
        self.server.on_request()
        # The head has told where the body ends.  pywsgi leaves that out where Connection or Upgrade name an upgrade,
        # and whoever reads the body then reads into the next request.
        environ["wsgi.input"], environ["wsgi.input_terminated"] = self.wsgi_input, True
        self._reading_body, self._body_began, self._body_from = True, time.monotonic(), self.rfile.raw.received
        if self.server.proxies:
            self._slot.is_of(client_address(environ, self.server.proxies))
        if self._unread() > 0:
            self._watch(self.server.request_timeout)
            self._slot.rest()
        else:
            self._slot.work()
            self._stop_watching()
        return environ

    def run_application(self) -> Any:
        if self.server.forwarder is not None:
            self.application = self.server.forwarder.application(self)
        if self._slot.late and not self.environ["PATH_INFO"].endswith(PROBES):
            self.server.slots.refused(client_address(self.environ, self.server.proxies))
            self.application = NO_ROOM
        elif wants_websocket(self.environ) and not self._is_own():
            try:
                invite(self, self.server.guests)
            except HandshakeError as error:
                self.application = turn_away(error)
        answered = super().run_application()
        if self.close_connection and self.socket is not None and self._unread() > 0:
            self._hang_up()
        return answered

    def _is_own(self) -> bool:
        """Whether the request is for one of the services, which may be mounted below a path."""
        return any(path in self.environ["PATH_INFO"] for path in self.server.own_paths)

    def _hang_up(self) -> None:
        """The answer is out before the body was read, and is the last one: say so by TCP, and read on for a moment
        only, since closing with unread bytes resets the connection and the answer may be lost."""
        sock = self.socket._sock

        def shut(how: int) -> None:
            try:
                sock.shutdown(how)
            except OSError as error:
                log.debug("a client is gone: %s", error)

        shut(stdlib_socket.SHUT_WR)
        self._stop_watching()
        self._watcher = gevent.get_hub().loop.timer(LAST_BYTES)
        self._watcher.start(shut, stdlib_socket.SHUT_RD)


class Server(PyWSGIServer):  # type: ignore[misc]  # gunicorn has no types
    """The listening side of one worker."""

    handoff: Passes | None = None
    forwarder: Forwarder | None = None
    tls: TlsFront | None = None
    own_paths: tuple[str, ...] = ()
    refusals = LimitedLog(log)
    slots = Slots(OTHERS, lambda name: None)
    proxies = 0
    request_timeout = REQUEST_TIMEOUT
    write_timeout = WRITE_TIMEOUT
    guests = GuestOptions()
    on_request: Callable[[], None] = staticmethod(lambda: None)
    on_timeout: Callable[[], None] = staticmethod(lambda: None)
    on_dawdler: Callable[[], None] = staticmethod(lambda: None)
    balance: Balance | None = None
    connections: Callable[[], int] = staticmethod(lambda: 0)
    draining: Callable[[], bool] = staticmethod(lambda: False)
    _pause: Any = None
    _stepped_aside = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adopted = Group()

    def _do_read(self) -> None:
        now, draining = time.monotonic(), self.draining()
        if self.balance is None or (not draining and now - self._stepped_aside < 2 * STEP_ASIDE):
            super()._do_read()
        elif self.balance.is_ahead(DRAINED if draining else self.connections() + len(self.pool)):
            self._step_aside(now, LEFT_TO_OTHERS if draining else STEP_ASIDE)
        else:  # also when everybody is drained: then each answers 503, also to probes
            super()._do_read()

    def _step_aside(self, now: float, seconds: float) -> None:
        self._stepped_aside = now
        self.stop_accepting()
        if self._pause is not None:
            self._pause.close()
        self._pause = gevent.get_hub().loop.timer(seconds)
        self._pause.start(self._start_accepting_if_started)

    def adopt(self, sock: Any, address: Any, early: bytes) -> None:
        """Serve a connection that a colleague accepted, and has read the bytes `early` of."""
        self.adopted.add(gevent.getcurrent())
        self.handler_class(sock, address, self, request_reader(sock, early)).handle()

    def wrap_socket_and_handle(self, accepted: Any, address: Any) -> None:
        """Serve what is behind a TLS connection; called by gevent where there is a context."""
        sock = self._shake_hands(accepted, address)
        if sock is None:
            return
        try:
            self.handle(sock, address)
        finally:
            sock.close()

    def _shake_hands(self, accepted: Any, address: Any) -> Any:
        assert self.tls is not None
        greenlet = gevent.getcurrent()

        def give_way() -> bool:
            greenlet.kill(block=False)
            return True

        slot = self.slots.enter(address, give_way)
        if slot is None:
            return None
        try:
            return self.tls.accept(accepted, self.request_timeout)
        finally:
            slot.leave()


def no_room(_environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The answer to a request for which no place is left."""
    told = b"all connections of the worker are in use: come back"
    start_response("503 Service Unavailable", [("Content-Type", "text/plain"), ("Content-Length", str(len(told))),
                                               ("Retry-After", "1"), ("Connection", "close")])
    return [told]


NO_ROOM: Final[Application] = no_room


def _start(hosted: list[Service], listening: Listening) -> None:
    """Start the services of a server that listens there.

    What no worker could ever do ends the server, as one worker that does not boot does."""
    try:
        for service in hosted:
            service.start(listening)
    except (Incompatible, SettingsError) as error:
        log.critical("the server ends: %s", error)
        sys.exit(Arbiter.WORKER_BOOT_ERROR)


def _first(hosted: list[Service], name: str, default: Any) -> Any:
    """What the first service that has it gives under a name which not every service has."""
    return next((getattr(service, name) for service in hosted if hasattr(service, name)), default)


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]  # gunicorn has no types
    """Starts the services, serves, and on SIGTERM lets them say goodbye before the sockets close."""

    server_class = Server
    wsgi_handler = Handler
    directory = Path()  # what the workers of this master share

    @classmethod
    def setup(cls) -> None:
        """Called by gunicorn's master whenever it looks at its worker class, first before it has workers: they inherit
        what is made here."""
        if cls.directory == Path():
            cls.directory = runtime_directory.make()
            atexit.register(_remove_of, os.getpid(), cls.directory)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wake: Event | None = None
        self._balance: Balance | None = None
        self._hurry = False
        self._slots = Server.slots  # on all ports of the worker together
        self._handshakes = Bucket(0)  # of TLS, on all ports of the worker together

    def load_wsgi(self) -> None:
        """Load the application; a wrong setting of its own is one line, and ends the server."""
        try:
            super().load_wsgi()
        except SettingsError as error:
            self.log.error("wsapp: %s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def run(self) -> None:
        """Serve until told to stop, then drain."""
        self._log_with_gunicorn()
        self._wake = Event()
        hosted = services()
        if self.cfg.workers > 1:
            self._balance = Balance(self.directory, self.age)
        _start(hosted, self._listening())
        rate = max((getattr(service, "max_tls_handshakes", 0.0) for service in hosted), default=0.0)
        self._handshakes = Bucket(rate, max(1.0, 2 * rate))  # all come back at once when a worker is replaced
        self._slots = slots_for(sum(getattr(service, "max_connections", 0) for service in hosted)
                                or self.worker_connections, TLS_DESCRIPTORS if self.cfg.is_ssl else 1,
                                _first(hosted, "count_refusal", lambda name: None))
        servers = [self._server(sock, hosted) for sock in self.sockets]
        handoffs = self._handoffs(servers, hosted)
        forwarder = self._forwarder(servers, hosted)
        _tune_collector()
        for server in servers:
            server.start()
        if self._balance is not None:
            self._balance.is_ahead(0)  # from here on the others count on this one
        for service in hosted:
            log.info("wsapp worker %s is up: %s", service.token, service.store)
            if self.age == 1:  # the first worker of the server says it for all
                service.announce([sock.getsockname() for sock in self.sockets], "https" if self.cfg.is_ssl else "http")
        while self.alive:
            self.notify()
            for handoff in handoffs:
                handoff.heal()
            if self._balance is not None:
                self._balance.heal()
            if forwarder is not None:
                forwarder.tend()
            self._wake.wait(1.0)
        self._stop(servers, hosted)
        if forwarder is not None:
            forwarder.close()
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
        server = self.server_class(sock, application=self.wsgi, spawn=Pool(), log=self.log,
                                   handler_class=self.wsgi_handler, environ=environ, **tls)
        if tls:
            server.tls = TlsFront(tls["ssl_context"], self._handshakes,
                                  _first(hosted, "tls_handshake_refused", lambda: None))
        server.max_accept = AT_ONCE
        if self.cfg.workers > 1:
            server.max_accept = 1
            server.balance = self._balance
            server.connections = lambda: sum(service.connection_count() for service in hosted)
            server.draining = lambda: bool(hosted) and all(service.draining for service in hosted)
        server.request_timeout = min((getattr(service, "request_timeout", REQUEST_TIMEOUT) for service in hosted),
                                     default=REQUEST_TIMEOUT)
        server.write_timeout = min((getattr(service, "write_timeout", WRITE_TIMEOUT) for service in hosted),
                                   default=WRITE_TIMEOUT)
        server.on_dawdler = _first(hosted, "dawdler_cut_off", server.on_dawdler)
        server.on_timeout = _first(hosted, "request_timed_out", server.on_timeout)
        server.slots, server.proxies = self._slots, _first(hosted, "trusted_proxies", 0)
        server.guests = _first(hosted, "guests", server.guests)
        server.on_request = self._requested
        server.own_paths = tuple(service.path_prefix for service in hosted)
        return server

    def _requested(self) -> None:
        """gunicorn's `max_requests`: the worker drains, and its master starts another."""
        self.nr += 1
        if self.nr == self.max_requests:
            log.info("max_requests: after %d requests this worker is replaced", self.nr)
            self.handle_exit(signal.SIGTERM, None)

    def _handoffs(self, servers: list[Server], hosted: list[Service]) -> list[Handoff]:
        made = [Handoff(self.directory, service.token, servers[0].adopt) for service in hosted]
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

    def _listening(self) -> Listening:
        addresses = tuple(sock.getsockname()[:2] for sock in self.sockets if sock.family != stdlib_socket.AF_UNIX)
        return Listening(addresses, (certificate_of(ssl_context(self.cfg)),) if self.cfg.is_ssl else ())

    def _forwarder(self, servers: list[Server], hosted: list[Service]) -> Forwarder | None:
        """For requests of other hosts' sessions, where there may be other hosts."""
        routes = [found for service in hosted if (found := _first([service], "routes", None)) is not None]
        if not routes:
            return None
        count = _first(hosted, "count_forwarding", lambda _name: None)
        context = client_context(self.cfg.certfile, self.cfg.keyfile) if self.cfg.is_ssl else client_context()
        made = Forwarder(routes, [service.token for service in hosted], servers[0].own_paths,
                         routes[0].options, count, context)
        for server in servers:
            server.forwarder = made
        return made

    def _stop(self, servers: list[Server], hosted: list[Service]) -> None:
        """Accept no more, but for the requests of polling clients that are there still: others get 503."""
        begun = time.monotonic()
        drains = [gevent.spawn(service.drain, QUICK_DRAIN if self._hurry else None) for service in hosted]
        while not all(drain.ready() for drain in drains):
            self.notify()
            if not any(service.polled for service in hosted):
                for server in servers:
                    server.close()
            gevent.joinall(drains, timeout=DRAIN_LOOK)
        for service in hosted:
            service.shutdown()
        for server in servers:
            server.stop(timeout=0.2)  # closes it too
            server.adopted.kill(timeout=0.2)  # those that are idle, whose TLS may end at a colleague
        patience = QUICK_DRAIN if self._hurry else max((service.drain_timeout for service in hosted), default=0.0)
        self._leave_tunnels([server.tls for server in servers if server.tls is not None], begun + patience + LAST_WORDS)

    def _leave_tunnels(self, fronts: list[TlsFront], deadline: float) -> None:
        """Colleagues may still be saying goodbye to clients whose TLS connections end here."""
        while any(fronts) and time.monotonic() < deadline:
            self.notify()
            gevent.sleep(TUNNEL_LOOK)
        for front in fronts:
            front.end()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: stop accepting, drain, exit."""
        self.alive = False
        if self._wake is not None:
            gevent.get_hub().loop.run_callback_threadsafe(self._wake.set)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGINT and SIGQUIT: the same, in a hurry."""
        self._hurry = True
        self.handle_exit(sig, frame)


def _remove_of(master: int, directory: Path) -> None:
    """Workers inherit what is registered for the exit of the master."""
    if os.getpid() == master:
        runtime_directory.remove(directory)


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

    def give(self, owner: str, sock: Any, address: Any, early: bytes = b"") -> bool:
        return self._first.give(owner, sock, address, early)


