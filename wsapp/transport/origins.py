"""Which pages may talk to the server: the Origin policy, judged before any upgrade.

Browsers do not apply CORS to WebSockets, so the server must (RFC 6455 section 10.2).  A request without an Origin
does not come from a page and is let through.  A Host that was rebound to this machine (DNS rebinding) makes a foreign
page look like one of the same origin, so the name is judged too.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from wsapp.core.forwarded import told_by
from wsapp.core.throttle import Bucket

audit = logging.getLogger("wsapp.audit")

Environ = dict[str, Any]

LINES_PER_SEC: Final = 1.0  # of the audit; those that a flood would add are counted in the next one
LINES_AT_ONCE: Final = 10
LONGEST: Final = 100  # characters of what a client made up


class Origins:
    """The server's own origin is always allowed.  `allowed` is a list of further ones (`https://app.example`), or `*`
    for any (then without credentials).  `hosts` are the names served (`app.example`, `*.app.example`), empty for any;
    `proxies`: how many trusted ones stand in front, whose X-Forwarded-Host is the requested name."""

    def __init__(self, allowed: Sequence[str] = (), hosts: Sequence[str] = (), proxies: int = 0) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)
        self._any = "*" in self._allowed
        self._named = frozenset(_host_of(origin) for origin in self._allowed)
        self._hosts, self._proxies = tuple(hosts), proxies

    def _host(self, environ: Environ) -> str:
        told = told_by(environ.get("HTTP_X_FORWARDED_HOST", ""), self._proxies) if self._proxies else None
        return (told or environ.get("HTTP_HOST", "")).lower()

    def judge(self, environ: Environ) -> None:
        """Raises PermissionError for a page from elsewhere, and for a name that is not served."""
        self.judge_host(environ)
        origin = environ.get("HTTP_ORIGIN")
        if origin is None or self._any:
            return
        if origin.lower() in self._allowed:
            return
        if not self._is_own(origin, environ):
            raise PermissionError("Forbidden: the page's origin is not in WEBSOCKET_CORS_ORIGIN")
        if not self._hosts and self._may_be_rebound(environ):
            raise PermissionError("Forbidden: a page of this name may be a stranger's (DNS rebinding); if it is yours, "
                                  "put the name into WSAPP_ALLOWED_HOSTS")

    def judge_host(self, environ: Environ) -> None:
        """Raises PermissionError for a Host that is not in the list, when there is one."""
        if not self._hosts:
            return
        host = self._host(environ)
        if not any(_serves(name, host) for name in self._hosts):
            raise PermissionError("Forbidden: the Host is not in WSAPP_ALLOWED_HOSTS")

    def _is_own(self, origin: str, environ: Environ) -> bool:
        """Whether a page of this server asks: the live page, and Python clients, which send the URL's origin."""
        # The scheme is left out: behind a proxy that ends TLS the page is https and we are http.  Where the list has
        # this host, with its scheme, the list decides.
        host = self._host(environ)
        return host != "" and host not in self._named and _host_of(origin.lower()) == host

    def _may_be_rebound(self, environ: Environ) -> bool:
        """Somebody on this machine asks for another name than this machine's: a browser whose DNS was rebound."""
        if self._proxies or not _is_loopback(environ.get("REMOTE_ADDR", "")):
            return False
        name = _bare(environ.get("HTTP_HOST", "").lower())
        return name != "localhost" and not name.endswith(".localhost") and not _is_address(name)

    def told(self, environ: Environ) -> str:
        """What was asked for, quoted for a log and cut."""
        return f"origin={environ.get('HTTP_ORIGIN', '')[:LONGEST]!r} host={self._host(environ)[:LONGEST]!r}"

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
            headers += [("Access-Control-Allow-Methods", "GET, POST, OPTIONS"),
                        ("Access-Control-Allow-Headers", "Content-Type, Authorization"),
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
        try:
            self._origins.judge(environ)
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


def _host_of(origin: str) -> str:
    return origin.partition("://")[2]


def _serves(name: str, host: str) -> bool:
    """Whether a listed name, with or without a port, is this Host; `*.` stands for one or more labels."""
    if name.startswith("*."):
        return _bare(host).endswith(name[1:])
    return name in (host, _bare(host))


def _bare(host: str) -> str:
    """A Host without its port; an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(text: str) -> bool:
    return _is_address(text) and ipaddress.ip_address(text).is_loopback
