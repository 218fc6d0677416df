"""Which names wsapp's own pages and answers are given under, and what they forbid the browser; the host application's
answers are left alone.

The live page loads scripts and styles from its own origin only and nothing inline; its WebSocket is covered by 'self'
(CSP Level 3, "Does url match source expression"; not before Safari 15.4).  Answers that are no page may do nothing.
"""

from __future__ import annotations

from typing import Final

from flask import Response, current_app, request

from wsapp.core.forwarded import told_by

PAGE_POLICY: Final = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
                      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
ANSWER_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
EVERYWHERE: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",  # EventSource and fetch ask with CORS, which this does not concern
}
PAGE: Final = {
    **EVERYWHERE,
    "Content-Security-Policy": PAGE_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}
ANSWER: Final = {**EVERYWHERE, "Content-Security-Policy": ANSWER_POLICY}


def judge_name() -> None:
    """Before a request of ours: a page of a name that was rebound to this machine would read the answer, since for its
    browser it is of the same origin and sends no Origin.  Raises PermissionError."""
    current_app.extensions["wsapp"].engine.turnstile.judge_host(request.environ)


def answer_strange_name(error: PermissionError) -> Response:
    """Error handler of blueprints that `judge_name`."""
    return Response(str(error), 403, content_type="text/plain; charset=utf-8")


def guarded_page(response: Response) -> Response:
    """After a request for the page or its files."""
    return _with(PAGE, response)


def guarded(response: Response) -> Response:
    """After any other request of ours."""
    return _with(ANSWER, response)


def _with(headers: dict[str, str], response: Response) -> Response:
    for name, value in headers.items():
        response.headers.setdefault(name, value)
    settings = current_app.extensions["wsapp"].settings
    if settings.hsts and _came_by_tls(settings.trusted_proxies):
        response.headers.setdefault("Strict-Transport-Security", f"max-age={settings.hsts}")
    return response


def _came_by_tls(proxies: int) -> bool:
    """RFC 6797 section 7.2: the header means nothing over plain HTTP and must not be sent there."""
    return request.scheme == "https" or told_by(request.headers.get("X-Forwarded-Proto", ""), proxies) == "https"
