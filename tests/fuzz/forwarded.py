"""The header of forwarded requests: nothing passes without the secret, and what passes reads as it was written."""

from __future__ import annotations

from wsapp.core.forwarding import Client, NotForwarded, forwarded_header, read_forwarded

SECRET, TARGET = b"secret", "/socket.io/?sid=0000000aX"
MADE = [forwarded_header(SECRET, "GET", TARGET, client) for client in (
    Client("203.0.113.7", 4711, "https"), Client("fe80::1%eth0", 1, "http"), Client("", 0, "http"))]

SEEDS = [b"", b"1", *(made.encode() for made in MADE), b"2" + MADE[0][1:].encode(), MADE[1].upper().encode()]


def check(data: bytes) -> None:
    header = data.decode("latin-1")
    try:
        client = read_forwarded(SECRET, "GET", TARGET, header)
    except NotForwarded:
        return
    assert header in MADE, "a header that no worker wrote"
    assert forwarded_header(SECRET, "GET", TARGET, client) == header
