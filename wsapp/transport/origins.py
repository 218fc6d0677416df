"""Which pages may talk to the server: the Origin policy, judged before any upgrade.

Browsers do not apply CORS to WebSockets, so the server must (RFC 6455 section 10.2).  A request without an Origin
does not come from a page and is let through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Environ = dict[str, Any]


class Origins:
    """`allowed` is a list of origins (`https://app.example`), `*` for any (then without credentials), or empty for the
    same origin only."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)
        self._any = "*" in self._allowed

    def judge(self, environ: Environ) -> None:
        """Raises PermissionError for a page from elsewhere."""
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and not self._any and not self._listed(origin, environ):
            raise PermissionError("Forbidden: the page's origin is not in WEBSOCKET_CORS_ORIGIN")

    def _listed(self, origin: str, environ: Environ) -> bool:
        origin = origin.lower()
        if self._allowed:
            return origin in self._allowed
        # The scheme is left out: behind a proxy that ends TLS the page is https and we are http.
        host: str = environ.get("HTTP_HOST", "").lower()
        return host != "" and origin.partition("://")[2] == host

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
