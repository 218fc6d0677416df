"""Origins and names of hosts as browsers send them."""

from __future__ import annotations

import pytest

from wsapp.core.origin import Host, Origin, ascii_name, parse_host, parse_origin


@pytest.mark.parametrize(("text", "told"), [
    ("https://App.Example/", "https://app.example"), ("https://app.example:443", "https://app.example"),
    ("http://app.example:80", "http://app.example"), ("http://app.example:443", "http://app.example:443"),
    ("https://app.example:8443", "https://app.example:8443"), ("http://[::1]:3001", "http://[::1]:3001"),
    ("https://b\u00fccher.example", "https://xn--bcher-kva.example"), ("https://*.App.example", "https://*.app.example"),
    ("capacitor://localhost", "capacitor://localhost"), ("tauri://localhost", "tauri://localhost"),
    ("ionic://localhost", "ionic://localhost"), ("HTTPS://a_b.example", "https://a_b.example"),
    ("chrome-extension://abcdefghijklmnopabcdefghijklmnop", "chrome-extension://abcdefghijklmnopabcdefghijklmnop"),
    ("moz-extension://0f9e-12", "moz-extension://0f9e-12")])
def test_what_is_an_origin(text: str, told: str) -> None:
    assert str(parse_origin(text)) == told
    assert parse_origin(told) == parse_origin(text)


@pytest.mark.parametrize("text", [
    "", "null", "app.example", "https://", "https:///", "https://a/b", "https://a?b", "https://a#b", "https://u@a",
    "https://a:0", "https://a:65536", "https://a:port", "https://a b", "file:///home", "file://host", "blob:https://a",
    "data://x", "https://*", "https://a.*.b", "https://*.*.b", "https://stra\u00dfe.example", "https://a..b\u00fc",
    "https://-\u00fc" + "x" * 70, "://a", "https://[::1", "https://\x00"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_origin(text)


@pytest.mark.parametrize(("entry", "origin", "covered"), [
    ("https://*.app.example", "https://a.app.example", True), ("https://*.a.example", "https://b.c.a.example", True),
    ("https://*.app.example", "https://app.example", False), ("https://*.a.example", "https://evila.example", False),
    ("https://*.app.example", "http://a.app.example", False), ("https://*.a.example", "https://b.a.example:1", False),
    ("https://*.app.example:443", "https://a.app.example", True), ("https://app.example", "https://app.example", True),
    ("https://app.example", "http://app.example", False), ("tauri://localhost", "tauri://localhost", True),
    ("tauri://localhost", "http://localhost", False)])
def test_entries_of_a_list(entry: str, origin: str, covered: bool) -> None:
    assert parse_origin(entry).covers(parse_origin(origin)) is covered


@pytest.mark.parametrize(("entry", "host", "covered"), [
    ("app.example", "app.example", True), ("app.example", "app.example:3001", True),
    ("app.example:3001", "app.example", False), ("app.example:443", "app.example", True),
    ("app.example:443", "app.example:80", False), ("*.app.example", "a.app.example:1", True),
    ("*.app.example", "app.example", False), ("b\u00fccher.example", "xn--bcher-kva.example", True),
    ("[::1]", "[::1]:3001", True)])
def test_names_of_a_list(entry: str, host: str, covered: bool) -> None:
    assert parse_host(entry).covers(parse_host(host)) is covered


@pytest.mark.parametrize(("host", "origin", "same"), [
    ("app.example", "https://app.example", True), ("app.example:443", "https://app.example", True),
    ("app.example:80", "http://app.example", True), ("app.example:80", "https://app.example", False),
    ("app.example:443", "http://app.example", False), ("app.example", "https://app.example:8443", False),
    ("app.example:8443", "https://app.example:8443", True), ("app.example", "tauri://app.example", False)])
def test_whose_page_it_is(host: str, origin: str, same: bool) -> None:
    assert parse_host(host).is_of(parse_origin(origin)) is same


def test_names() -> None:
    assert (parse_host(""), parse_host("a:")) == (Host("", None), Host("a", None))
    assert ascii_name("B\u00dcCHER.example") == "xn--bcher-kva.example"
    assert Origin("https", "a", None) == parse_origin("https://a")
    for wrong in ("a b", "a/b", "a:b", "a@b", "*.*.a", "a\r\nb", "a.", ".a"):
        with pytest.raises(ValueError):
            parse_host(wrong)
