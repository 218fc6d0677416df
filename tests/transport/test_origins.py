"""The Origin policy."""

from __future__ import annotations

import logging

import pytest

from wsapp.transport.origins import LINES_AT_ONCE, Origins, Turnstile


def request(origin: str | None, host: str | None = "app.example", method: str = "GET") -> dict[str, str]:
    environ = {"HTTP_ORIGIN": origin, "HTTP_HOST": host, "REQUEST_METHOD": method}
    return {name: value for name, value in environ.items() if value is not None}


@pytest.mark.parametrize(("allowed", "origin"), [
    ([], None), (["https://a.example"], None),
    ([], "https://app.example"), ([], "http://APP.example"),
    (["https://a.example"], "https://a.example"), (["https://A.example/"], "https://a.EXAMPLE"),
    (["https://a.example", "http://localhost:3000"], "http://localhost:3000"),
    (["*"], "https://anything.example"), (["*"], "null"),
    (["https://*.a.example"], "https://x.y.a.example"), (["tauri://localhost"], "tauri://localhost"),
    (["chrome-extension://abcdef"], "chrome-extension://abcdef"), (["https://a.example:443"], "https://a.example"),
    (["https://b\u00fccher.example"], "https://xn--bcher-kva.example"),
    # The server's own pages and Python clients beside the listed front end.
    (["http://localhost:5173"], "https://app.example"), (["http://localhost:5173"], "http://APP.example"),
])
def test_let_through(allowed: list[str], origin: str | None) -> None:
    Origins(allowed).judge(request(origin))


@pytest.mark.parametrize(("allowed", "origin"), [
    ([], "https://evil.example"), ([], "https://app.example.evil.example"), ([], "https://app.example:8443"),
    ([], "null"), ([], ""), (["https://app.example"], "http://app.example"), (["https://a.example"], "http://a.example"),
    (["https://a.example"], "https://a.example.evil"), (["https://a.example"], "https://sub.a.example"),
    (["https://a.example"], "null"), (["https://a.example"], ""), (["https://*.a.example"], "https://a.example"),
    (["https://*.a.example"], "https://eva.example"), (["tauri://localhost"], "capacitor://localhost"),
])
def test_refused(allowed: list[str], origin: str) -> None:
    with pytest.raises(PermissionError):
        Origins(allowed).judge(request(origin))


@pytest.mark.parametrize(("origin", "host"), [
    ("https://app.example", "app.example:443"), ("http://app.example", "app.example:80"),
    ("https://app.example:8443", "app.example:8443"), ("https://xn--bcher-kva.example", "b\u00fccher.example")])
def test_default_ports_and_spellings_are_the_same_origin(origin: str, host: str) -> None:
    Origins().judge(request(origin, host))


def test_a_page_by_plain_http_is_not_that_of_a_server_by_tls() -> None:
    """Whoever sits on the line to the page of plain HTTP would read what is sent by TLS."""
    plain, safe = request("http://app.example"), request("https://app.example")
    Origins().judge(plain | {"wsgi.url_scheme": "http"})
    Origins().judge(safe | {"wsgi.url_scheme": "http"})  # a proxy ends TLS
    Origins().judge(safe | {"wsgi.url_scheme": "https"})
    Origins(proxies=1).judge(safe | {"HTTP_X_FORWARDED_PROTO": "https"})
    with pytest.raises(PermissionError):
        Origins().judge(plain | {"wsgi.url_scheme": "https"})
    with pytest.raises(PermissionError):
        Origins(proxies=1).judge(plain | {"HTTP_X_FORWARDED_PROTO": "https"})


@pytest.mark.parametrize("host", [None, ""])
def test_without_a_host_no_origin_is_the_same(host: str | None) -> None:
    for origin in ("null", "", "https://"):
        with pytest.raises(PermissionError):
            Origins().judge(request(origin, host))


def test_headers() -> None:
    assert Origins().headers(request(None)) == []
    own = dict(Origins(["https://a.example"]).headers(request("https://a.example")))
    assert own == {"Access-Control-Allow-Origin": "https://a.example", "Access-Control-Allow-Credentials": "true",
                   "Vary": "Origin"}
    anyone = dict(Origins(["*"]).headers(request("https://a.example")))
    assert anyone == {"Access-Control-Allow-Origin": "*"}  # never a reflected origin with credentials
    preflight = dict(Origins(["*"]).headers(request("https://a.example", method="OPTIONS")))
    assert "POST" in preflight["Access-Control-Allow-Methods"]
    for name in ("Content-Type", "Authorization", "Last-Event-ID", "Cache-Control"):
        assert name in preflight["Access-Control-Allow-Headers"].split(", ")


@pytest.mark.parametrize(("host", "served"), [
    ("app.example", True), ("app.example:3001", True), ("APP.example", True), ("a.sub.example", True),
    ("sub.example", False), ("evil.example", False), ("app.example.evil.example", False), ("", False)])
def test_only_listed_hosts_are_served(host: str, served: bool) -> None:
    origins = Origins(["https://app.example"], ["app.example", "*.sub.example"])
    for more in ({}, {"HTTP_ORIGIN": "https://app.example"}):
        if served:
            origins.judge({"HTTP_HOST": host, **more})
        else:
            with pytest.raises(PermissionError, match="WSAPP_ALLOWED_HOSTS"):
                origins.judge({"HTTP_HOST": host, **more})


@pytest.mark.parametrize(("peer", "host", "told"), [
    ("127.0.0.1", "evil.example:3001", False), ("::1", "evil.example", False),
    ("127.0.0.1", "localhost.evil.example", False),
    ("127.0.0.1", "localhost:3001", True), ("127.0.0.1", "127.0.0.1:3001", True), ("::1", "[::1]:3001", True),
    ("127.0.0.1", "app.localhost", True), ("203.0.113.7", "app.example", True), ("127.0.0.1", "mybox:3001", True)])
def test_a_rebound_name_is_not_the_same_origin(peer: str, host: str, told: bool) -> None:
    environ = {"REMOTE_ADDR": peer, "HTTP_HOST": host, "HTTP_ORIGIN": f"http://{host}"}
    if told:
        Origins().judge(environ)
    else:
        silent = {name: value for name, value in environ.items() if name != "HTTP_ORIGIN"}  # a GET of the same origin
        for origins in (Origins(), Origins(["http://localhost:5173"]), Origins(["*"])):
            for each in (environ, silent):
                with pytest.raises(PermissionError, match="DNS rebinding"):
                    origins.judge(each)
                with pytest.raises(PermissionError, match="DNS rebinding"):
                    origins.judge_host(each)
    Origins(hosts=[host]).judge(environ)
    Origins(proxies=1).judge(environ)
    Origins([f"https://{host}"]).judge_host(environ)


def test_a_trusted_proxy_says_which_name_was_asked_for() -> None:
    environ = {"HTTP_HOST": "10.0.0.5:3001", "HTTP_X_FORWARDED_HOST": "app.example", "REMOTE_ADDR": "10.0.0.9",
               "HTTP_ORIGIN": "https://app.example"}
    Origins(proxies=1).judge(environ)
    Origins(hosts=["app.example"], proxies=1).judge(environ)
    with pytest.raises(PermissionError, match="WEBSOCKET_CORS_ORIGIN"):
        Origins().judge(environ)  # nobody's word
    with pytest.raises(PermissionError, match="WSAPP_ALLOWED_HOSTS"):
        Origins(hosts=["10.0.0.5"], proxies=1).judge(environ)


def test_who_is_refused_is_counted_and_noted_down(caplog: pytest.LogCaptureFixture) -> None:
    now, counted = [0.0], list[str]()
    turnstile = Turnstile(Origins(hosts=["app.example"]), lambda _: "203.0.113.7", counted.append, lambda: now[0])
    with caplog.at_level(logging.WARNING, "wsapp.audit"):
        turnstile.judge(request("https://app.example"))
        for environ in (request("https://evil.example"), request(None, "a\r\nfoo\u2028" + "x" * 500)):
            with pytest.raises(PermissionError):
                turnstile.judge({**environ, "HTTP_COOKIE": "token=secret"})
        first, second = [record.getMessage() for record in caplog.records]
        assert first == ("refused: the page's origin is not in WEBSOCKET_CORS_ORIGIN: origin='https://evil.example' "
                         "host='app.example' from '203.0.113.7'")
        assert second.startswith("refused: the Host is not in WSAPP_ALLOWED_HOSTS: origin='' host='a\\r\\nfoo\\u2028xx")
        assert len(second) < 250 and second.isprintable() and "secret" not in first + second
        caplog.clear()
        for number in range(500):  # a flood is no flood of lines
            now[0] = number / 100
            with pytest.raises(PermissionError):
                turnstile.judge(request("https://evil.example"))
    lines = [record.getMessage() for record in caplog.records]
    assert LINES_AT_ONCE <= len(lines) + 2 <= LINES_AT_ONCE + 5
    assert lines[-1].endswith("; 99 more since the last such line")
    assert counted == ["originsRefused"] * 502
