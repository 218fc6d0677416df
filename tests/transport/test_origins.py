"""The Origin policy."""

from __future__ import annotations

import pytest

from wsapp.transport.origins import Origins


def request(origin: str | None, host: str | None = "app.example", method: str = "GET") -> dict[str, str]:
    environ = {"HTTP_ORIGIN": origin, "HTTP_HOST": host, "REQUEST_METHOD": method}
    return {name: value for name, value in environ.items() if value is not None}


@pytest.mark.parametrize(("allowed", "origin"), [
    ([], None), (["https://a.example"], None),
    ([], "https://app.example"), ([], "http://APP.example"),
    (["https://a.example"], "https://a.example"), (["https://A.example/"], "https://a.EXAMPLE"),
    (["https://a.example", "http://localhost:3000"], "http://localhost:3000"),
    (["*"], "https://anything.example"), (["*"], "null"),
])
def test_let_through(allowed: list[str], origin: str | None) -> None:
    Origins(allowed).judge(request(origin))


@pytest.mark.parametrize(("allowed", "origin"), [
    ([], "https://evil.example"), ([], "https://app.example.evil.example"), ([], "https://app.example:8443"),
    ([], "null"), ([], ""), (["https://a.example"], "https://app.example"), (["https://a.example"], "http://a.example"),
    (["https://a.example"], "https://a.example.evil"), (["https://a.example"], "https://sub.a.example"),
    (["https://a.example"], "null"), (["https://a.example"], ""),
])
def test_refused(allowed: list[str], origin: str) -> None:
    with pytest.raises(PermissionError):
        Origins(allowed).judge(request(origin))


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
    assert "Content-Type" in preflight["Access-Control-Allow-Headers"]
