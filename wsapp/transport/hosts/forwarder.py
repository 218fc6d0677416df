"""Requests of a session whose worker is on another host: passed on to it, and its answer back.

    client  ->  this worker  ->  the owner's host, its ordinary port  ->  the owner (wsapp.transport.handoff)

Bodies are streamed in pieces.  An answer of 101 makes the two connections one (`Splice`).  When the owner is gone, or
does not answer, the request is answered here: with the protocol's "Session ID unknown", and the client resumes its
session on a new connection.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import gevent

from wsapp.core.forwarding import HEADER, Client, NotForwarded, forwarded_header, read_forwarded
from wsapp.transport.departure import Departure
from wsapp.transport.handoff import owner_in
from wsapp.transport.hosts.route import ForwardingOptions, Routes
from wsapp.transport.hosts.splice import Splice
from wsapp.transport.hosts.upstream import Unreachable, Upstream, Upstreams
from wsapp.transport.request_head import Fields
from wsapp.transport.websocket import detach

log = logging.getLogger(__name__)

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

PIECE: Final = 65_536
ENVIRON_NAME: Final = "HTTP_" + HEADER.upper().replace("-", "_")
# Of one connection, not of the request (RFC 9110 section 7.6.1); Expect was answered here.
OF_THE_HOP: Final = frozenset({"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
                               "upgrade", "expect"})
FULL: Final = b'{"code": 4, "message": "the worker forwards as many requests as it may"}'


class Forwarder:
    """One worker's.  `routes` are those of its services, `own` their tokens; `count(name)` counts what becomes of
    requests: `forwarded`, `forwardsFailed`, `forwardsRefused`."""

    def __init__(self, routes: Iterable[Routes], own: Iterable[str], paths: tuple[str, ...], options: ForwardingOptions,
                 count: Callable[[str], None], context: ssl.SSLContext) -> None:
        self._routes, self._own, self._paths = list(routes), frozenset(own), paths
        self._options, self._count = options, count
        self._upstreams = Upstreams(context)
        self._splices: set[Splice] = set()
        self._waiting = 0

    def application(self, handler: Any) -> Application:
        """What answers a handler's request: its own application, one that forwards it, or one that refuses it."""
        environ: Environ = handler.environ
        own: Application = handler.application
        if ENVIRON_NAME in environ:
            return self._taken(handler, own)
        if environ["REQUEST_METHOD"] not in ("GET", "POST") or not any(
                path in environ["PATH_INFO"] for path in self._paths):
            return own
        token = owner_in(b"?" + environ["QUERY_STRING"].encode("latin-1"))
        if token is None or token in self._own or "HTTP_TRANSFER_ENCODING" in environ:
            return own
        return _Forwarding(self, handler, own, token).answer

    def tend(self) -> None:
        """Called once a second or so."""
        self._upstreams.tend()

    def close(self) -> None:
        """End what is left; clients whose WebSockets pass through here come back elsewhere."""
        for splice in list(self._splices):
            splice.end()
        self._upstreams.close()

    def __len__(self) -> int:
        return self._waiting + len(self._splices)

    def _taken(self, handler: Any, own: Application) -> Application:
        """A request that a worker of another host forwarded: from here on it is its client's."""
        environ = handler.environ
        told = environ.pop(ENVIRON_NAME)
        error: NotForwarded = NotForwarded(f"{HEADER} is written by workers only")
        for routes in self._routes:
            try:
                client = read_forwarded(routes.secret, environ["REQUEST_METHOD"], handler.path, told)
            except NotForwarded as refused:
                error = refused
                continue
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client.address, str(client.port)
            environ["wsgi.url_scheme"] = client.scheme
            return own
        log.warning("refused a request of %s: %s", handler.client_address, error)
        self._count("forwardsRefused")
        return _refusal(str(error))

    # -- for one request

    def connect(self, token: str) -> tuple[bytes, Upstream]:
        """The secret and a connection for a request to a worker.  Raises Unreachable."""
        for routes in self._routes:
            route = routes.find(token)
            if route is not None:
                return routes.secret, self._upstreams.take(token, route)
        raise Unreachable("no worker that can be reached has this token")

    def begin(self) -> bool:
        """Count a request in; False when there are as many as there may be."""
        if len(self) >= self._options.most:
            self._count("forwardsRefused")
            return False
        self._waiting += 1
        return True

    def end(self, token: str, upstream: Upstream | None) -> None:
        """Count it out; a connection that can be used again comes back."""
        self._waiting -= 1
        if upstream is not None:
            self._upstreams.give_back(token, upstream)

    def failed(self, token: str, error: OSError) -> None:
        self._upstreams.drop(token)
        log.info("a request for worker %s is answered here: %s", token, error)
        self._count("forwardsFailed")

    def succeeded(self) -> None:
        self._count("forwarded")

    @property
    def patience(self) -> float:
        return self._options.patience

    def splice(self, handler: Any, upstream: Upstream) -> None:
        """Make a client's connection and its owner's one."""
        client, from_client = detach(handler)
        owner, from_owner = upstream.detach()
        splice = Splice(client, owner, self._options.write_timeout, self._splices.discard)
        self._splices.add(splice)
        splice.start(from_client, from_owner)


class _Forwarding:
    """One request on its way to the worker `token`, and the answer."""

    def __init__(self, forwarder: Forwarder, handler: Any, own: Application, token: str) -> None:
        self._forwarder, self._handler, self._own, self._token = forwarder, handler, own, token
        self._left = False  # whether the client has gone while it waited

    def answer(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The WSGI face."""
        if not self._forwarder.begin():
            start_response("503 Service Unavailable", [
                ("Content-Type", "application/json"), ("Content-Length", str(len(FULL))), ("Retry-After", "1")])
            return [FULL]
        upstream: Upstream | None = None
        try:
            secret, upstream = self._forwarder.connect(self._token)
            code, status, fields = self._exchange(environ, secret, upstream)
            if code == 101:
                return self._switch(fields, upstream)
            length = _length(code, fields)
        except OSError as error:
            if not self._left:
                self._forwarder.failed(self._token, error)
            self._end(upstream, again=False)
            return self._own(environ, start_response)
        except BaseException:  # the server ends
            self._end(upstream, again=False)
            raise
        self._forwarder.succeeded()
        start_response(status, [(name, value) for name, value in fields if name.lower() not in OF_THE_HOP])
        return self._body(upstream, length, again=("connection", "close") not in _lowered(fields))

    def _exchange(self, environ: Environ, secret: bytes, upstream: Upstream) -> tuple[int, str, Fields]:
        """Send the request, and read the head of the answer.  Raises OSError."""
        with gevent.Timeout(self._forwarder.patience, Unreachable("no answer came in time")):
            upstream.sock.sendall(self._head(environ, secret))
            left = int(environ.get("CONTENT_LENGTH") or 0)
            while left:
                piece = environ["wsgi.input"].read(min(left, PIECE))
                if not piece:
                    raise Unreachable("the client's body was cut short")
                upstream.sock.sendall(piece)
                left -= len(piece)
            with Departure(self._handler.socket, lambda: self._leave(upstream)):
                return upstream.answered()

    def _leave(self, upstream: Upstream) -> None:
        """The client hung up: so does this worker, and the owner knows what that means."""
        self._left = True
        upstream.abort()

    def _head(self, environ: Environ, secret: bytes) -> bytes:
        handler = self._handler
        method, target = environ["REQUEST_METHOD"], handler.path
        client = Client(environ.get("REMOTE_ADDR", ""), int(environ.get("REMOTE_PORT") or 0),
                        environ["wsgi.url_scheme"])
        fields = [(name, value) for name, value in handler.headers.items() if name.lower() not in OF_THE_HOP]
        if "HTTP_UPGRADE" in environ:
            fields += [("Connection", "Upgrade"), ("Upgrade", environ["HTTP_UPGRADE"])]
        fields.append((HEADER, forwarded_header(secret, method, target, client)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")

    def _switch(self, fields: Fields, upstream: Upstream) -> Iterable[bytes]:
        """The owner takes the client's WebSocket.  Raises OSError when the client has gone."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        self._handler.socket.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode("latin-1"))
        self._forwarder.splice(self._handler, upstream)
        self._forwarder.succeeded()
        self._forwarder.end(self._token, None)
        return []

    def _body(self, upstream: Upstream, length: int, again: bool) -> Iterator[bytes]:
        """Pieces of the answer.  One that is cut short ends the client's connection, which tells it so."""
        left = length
        try:
            while left:
                piece = upstream.reader.read1(min(left, PIECE))
                if not piece:
                    break
                left -= len(piece)
                yield piece
        except OSError as error:
            log.debug("an answer was cut short: %s", error)
        finally:
            if left:
                self._handler.close_connection = True
            self._end(upstream, again and not left)

    def _end(self, upstream: Upstream | None, again: bool) -> None:
        if upstream is not None and not again:
            upstream.close()
        self._forwarder.end(self._token, upstream if again else None)


def _length(code: int, fields: Fields) -> int:
    """Bytes of the body behind the head of an answer.  Raises Unreachable."""
    if code in (204, 304):
        return 0
    lengths = [value for name, value in fields if name.lower() == "content-length"]
    if len(lengths) != 1 or not lengths[0].isdecimal():
        raise Unreachable("an answer without a length")
    return int(lengths[0])


def _lowered(fields: Fields) -> set[tuple[str, str]]:
    return {(name.lower(), value.lower()) for name, value in fields}


def _refusal(message: str) -> Application:
    def refused(_environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        told = message.encode()
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8"),
                                         ("Content-Length", str(len(told))), ("Connection", "close")])
        return [told]

    return refused
