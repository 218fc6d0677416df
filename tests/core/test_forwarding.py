"""The header of forwarded requests: read as it was written, and by nobody without the secret."""

from __future__ import annotations

import pytest

from wsapp.core.forwarding import Client, NotForwarded, forwarded_header, read_forwarded, split_address

SECRET, TARGET = b"a secret of the workers", "/socket.io/?EIO=4&sid=0000000aX"


@pytest.mark.parametrize("client", [Client("203.0.113.7", 4711, "https"), Client("fe80::1%eth0", 1, "http"),
                                    Client("", 0, "http")])
def test_what_is_written_is_read(client: Client) -> None:
    header = forwarded_header(SECRET, "GET", TARGET, client)
    assert read_forwarded(SECRET, "GET", TARGET, header) == client


@pytest.mark.parametrize(("secret", "method", "target"), [
    (b"another secret", "GET", TARGET), (SECRET, "POST", TARGET), (SECRET, "GET", TARGET.replace("aX", "bX"))])
def test_it_holds_for_one_request_and_one_cluster(secret: bytes, method: str, target: str) -> None:
    header = forwarded_header(SECRET, "GET", TARGET, Client("203.0.113.7", 4711, "http"))
    with pytest.raises(NotForwarded, match="by workers only"):
        read_forwarded(secret, method, target, header)


def test_a_client_cannot_change_where_it_comes_from() -> None:
    header = forwarded_header(SECRET, "GET", TARGET, Client("203.0.113.7", 4711, "http"))
    for old, new in (("203.0.113.7", "203.0.113.8"), ("4711", "4712"), (" http ", " https ")):
        with pytest.raises(NotForwarded, match="by workers only"):
            read_forwarded(SECRET, "GET", TARGET, header.replace(old, new))


def test_another_format_is_named() -> None:
    header = forwarded_header(SECRET, "GET", TARGET, Client("203.0.113.7", 4711, "http"))
    with pytest.raises(NotForwarded, match="format 2, this worker reads 1"):
        read_forwarded(SECRET, "GET", TARGET, "2" + header[1:])


@pytest.mark.parametrize("header", ["", "1", "true", "1 a 1 http " + "0" * 63, "1 a\nb 1 http " + "0" * 64,
                                    "1 a 1 ftp " + "0" * 64, "1  a 1 http " + "0" * 64])
def test_anything_else_is_malformed(header: str) -> None:
    with pytest.raises(NotForwarded, match="malformed"):
        read_forwarded(SECRET, "GET", TARGET, header)


@pytest.mark.parametrize(("text", "address"), [
    ("ten.example", ("ten.example", 0)), ("10.0.0.5:3001", ("10.0.0.5", 3001)), ("[fe80::1]:80", ("fe80::1", 80)),
    ("[::1]", ("::1", 0)), ("fe80::1", ("fe80::1", 0))])
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


def test_a_port_is_a_number() -> None:
    with pytest.raises(ValueError):
        split_address("ten.example:http")
