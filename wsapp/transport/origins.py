"""Which pages may talk to the server: Origin and Host, judged before anything else of a request.

Browsers do not apply CORS to WebSockets, so the server must (RFC 6455 section 10.2).  A request without an Origin
comes from no page, or from one that the browser takes for one of the same origin: a page whose name was rebound to
this machine (DNS rebinding) is one, and the name is all that gives it away.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from wsapp.core.forwarded import told_by
from wsapp.core.origin import Host, Origin, parse_host, parse_origin
from wsapp.core.throttle import Bucket

audit = logging.getLogger("wsapp.audit")

Environ = dict[str, Any]

LINES_PER_SEC: Final = 1.0  # of the audit; those that a flood would add are counted in the next one
LINES_AT_ONCE: Final = 10
LONGEST: Final = 100  # characters of what a client made up


class Origins:
    """The server's own origin is always allowed.  `allowed` is a list of further ones (`https://app.example`,
    `https://*.app.example`, `tauri://localhost`), or `*` for any (then without credentials).  `hosts` are the names
    served (`app.example`, `*.app.example`), empty for any; `proxies`: how many trusted ones stand in front, whose
    X-Forwarded-Host is the requested name and whose X-Forwarded-Proto the scheme.  Raises ValueError for an entry that
    could not match."""

    def __init__(self, allowed: Sequence[str] = (), hosts: Sequence[str] = (), proxies: int = 0) -> None:
        self._any = "*" in allowed
        self._allowed = [parse_origin(origin) for origin in allowed if origin != "*"]
        self._named = frozenset((origin.host, origin.port) for origin in self._allowed)
        self._hosts, self._proxies = [parse_host(host) for host in hosts], proxies
        self._machine = socket.gethostname().lower()

    def judge(self, environ: Environ) -> None:
        """Raises PermissionError for a page from elsewhere, and for a name that is not served."""
        self.judge_host(environ)
        given = environ.get("HTTP_ORIGIN")
        if given is None or self._any:
            return
        try:
            origin = parse_origin(given)
        except ValueError:  # `null`, or no browser's
            origin = None
        if origin is None or not (self._lists(origin) or self._is_own(origin, environ)):
            raise PermissionError("Forbidden: the page's origin is not in WEBSOCKET_CORS_ORIGIN")

    def judge_host(self, environ: Environ) -> None:
        """Raises PermissionError for a name that is not in the list; without a list, for one that may be a stranger's.
        An address is nobody's to rebind, and always served."""
        host = self._host(environ)
        if _is_address(host.name):
            return
        if self._hosts and not any(served.covers(host) for served in self._hosts):
            raise PermissionError("Forbidden: the Host is not in WSAPP_ALLOWED_HOSTS")
        if not self._hosts and self._may_be_rebound(host, environ):
            raise PermissionError("Forbidden: a page of this name may be a stranger's (DNS rebinding); if it is yours, "
                                  "put the name into WSAPP_ALLOWED_HOSTS")

    def _host(self, environ: Environ) -> Host:
        """The name that was requested; one that cannot be is kept as it is, and matches nothing."""
        text = self._forwarded("HTTP_X_FORWARDED_HOST", environ) or environ.get("HTTP_HOST", "")
        try:
            return parse_host(text)
        except ValueError:
            return Host(text, None)

    def _forwarded(self, header: str, environ: Environ) -> str | None:
        return told_by(environ.get(header, ""), self._proxies) if self._proxies else None

    def _lists(self, origin: Origin) -> bool:
        return any(entry.covers(origin) for entry in self._allowed)

    def _is_own(self, origin: Origin, environ: Environ) -> bool:
        """Whether a page of this server asks: the live page, and Python clients, which send the URL's origin.  Where
        the list has this host, with its scheme, the list decides."""
        if (origin.host, origin.port) in self._named or not self._host(environ).is_of(origin):
            return False
        # Without a trusted proxy's word a request by plain HTTP may have come to somebody else by TLS.
        return origin.scheme == "https" or not self._came_by_tls(environ)

    def _came_by_tls(self, environ: Environ) -> bool:
        return "https" in (self._forwarded("HTTP_X_FORWARDED_PROTO", environ), environ.get("wsgi.url_scheme"))

    def _may_be_rebound(self, host: Host, environ: Environ) -> bool:
        """Somebody on this machine asks for another name than this machine's: a browser whose DNS was rebound.  A name
        of one label is in nobody's DNS."""
        if self._proxies or not _is_loopback(environ.get("REMOTE_ADDR", "")):
            return False
        name = host.name
        return "." in name and not name.endswith(".localhost") and name != self._machine and all(
            name != origin.host for origin in self._allowed)

    def told(self, environ: Environ) -> str:
        """What was requested, quoted for a log and cut."""
        host = self._forwarded("HTTP_X_FORWARDED_HOST", environ) or environ.get("HTTP_HOST", "")
        return f"origin={environ.get('HTTP_ORIGIN', '')[:LONGEST]!r} host={host[:LONGEST]!r}"

    def headers(self, environ: Environ) -> list[tuple[str, str]]:
        """The CORS headers of an answer to an origin that `judge` let through (Fetch standard, "CORS protocol")."""
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return []
        if self._any:
            headers = [("Access-Control-Allow-Origin", "*")]
        else:
            headers = [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true"),
                       ("Vary", "Origin")]
        if environ["REQUEST_METHOD"] == "OPTIONS":
            # The last two are what clients of event streams send when they resume.
            headers += [("Access-Control-Allow-Methods", "GET, POST, OPTIONS"),
                        ("Access-Control-Allow-Headers", "Content-Type, Authorization, Last-Event-ID, Cache-Control"),
                        ("Access-Control-Max-Age", "600")]
        return headers


class Turnstile:
    """Judges by the policy, and counts and notes down who is refused."""

    def __init__(self, origins: Origins, address: Callable[[Environ], str], count: Callable[[str], None],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._origins, self._address, self._count, self._clock = origins, address, count, clock
        self._lines = Bucket(LINES_PER_SEC, LINES_AT_ONCE)
        self._left_out = 0

    def judge(self, environ: Environ) -> None:
        """As `Origins.judge`."""
        self._passed(self._origins.judge, environ)

    def judge_host(self, environ: Environ) -> None:
        """As `Origins.judge_host`."""
        self._passed(self._origins.judge_host, environ)

    def _passed(self, judge: Callable[[Environ], None], environ: Environ) -> None:
        try:
            judge(environ)
        except PermissionError as error:
            self._count("originsRefused")
            self._note(environ, error)
            raise

    def _note(self, environ: Environ, error: PermissionError) -> None:
        if not self._lines.admit(self._clock()):
            self._left_out += 1
            return
        more, self._left_out = self._left_out, 0
        audit.warning("refused: %s: %s from %r%s", str(error).removeprefix("Forbidden: "), self._origins.told(environ),
                      self._address(environ), f"; {more} more since the last such line" if more else "")


def _is_address(name: str) -> bool:
    """Of a Host, which has an IPv6 address in brackets, or of a peer."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_loopback(text: str) -> bool:
    return _is_address(text) and ipaddress.ip_address(text).is_loopback
