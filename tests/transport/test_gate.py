"""The gate: handshakes a second, connections of an address, whose address it is."""

from __future__ import annotations

from typing import Any

import pytest

from wsapp.transport.gate import Full, Gate, GateOptions, TooMany, client_address


def environ(address: str = "203.0.113.7", forwarded: str | None = None) -> dict[str, Any]:
    return {"REMOTE_ADDR": address, **({"HTTP_X_FORWARDED_FOR": forwarded} if forwarded is not None else {})}


@pytest.mark.parametrize(("proxies", "forwarded", "seen"), [
    (0, "1.1.1.1", "203.0.113.7"),
    (1, "1.1.1.1", "1.1.1.1"),
    (1, "9.9.9.9, 1.1.1.1", "1.1.1.1"),
    (2, "9.9.9.9, 1.1.1.1, 10.0.0.1", "1.1.1.1"),
    (2, "1.1.1.1", "1.1.1.1"),
    (1, "", "203.0.113.7"),
    (1, None, "203.0.113.7"),
    (1, "1.1.1.1:4711", "1.1.1.1"),
    (1, "::ffff:1.1.1.1", "1.1.1.1"),
    (1, "[2001:db8:1:2:3::4]:80", "2001:db8:1:2::/64"),
    (1, "2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
    (1, "unknown", "unknown"),
])
def test_whose_address(proxies: int, forwarded: str | None, seen: str) -> None:
    assert client_address(environ(forwarded=forwarded), proxies) == seen


def test_connections_of_an_address() -> None:
    told: list[str] = []
    gate = Gate(GateOptions(per_address=2), count=told.append)
    for sid in ("a", "b"):
        gate.admit(environ())
        gate.opened(sid, environ())
    with pytest.raises(TooMany, match="WSAPP_MAX_CONNECTIONS_PER_ADDRESS") as caught:
        gate.admit(environ())
    assert caught.value.retry_after > 0
    assert told == ["addressesRefused"]
    gate.admit(environ("203.0.113.8"))
    gate.closed("a")
    gate.closed("a")
    gate.admit(environ())


def test_the_loopback_and_unix_sockets_have_no_limit() -> None:
    gate = Gate(GateOptions(per_address=1))
    for number, address in enumerate(("127.0.0.1", "::1", "") * 2):
        gate.admit(environ(address))
        gate.opened(str(number), environ(address))


def test_handshakes_a_second() -> None:
    now, told = [0.0], list[str]()
    gate = Gate(GateOptions(handshakes=2), count=told.append, clock=lambda: now[0])
    gate.admit({})
    gate.admit({})
    with pytest.raises(TooMany, match="WSAPP_MAX_HANDSHAKES_PER_SEC"):
        gate.admit({})
    now[0] = 0.5
    gate.admit({})
    assert told == ["handshakesRefused"]


def test_the_judge_comes_last() -> None:
    def judge(_environ: dict[str, Any]) -> None:
        raise PermissionError("no")
    gate = Gate(GateOptions(handshakes=1), judge)
    with pytest.raises(PermissionError):
        gate.admit({})
    with pytest.raises(TooMany):
        gate.admit({})


def test_what_has_not_settled() -> None:
    now = [0.0]
    gate = Gate(clock=lambda: now[0])
    for sid in ("a", "b", "c"):
        gate.opened(sid, environ())
    now[0] = 10.0
    gate.opened("d", environ())
    gate.settled("a")
    gate.closed("b")
    assert gate.unsettled(5.0) == ["c"]


def test_what_is_about_to_join_has_a_share_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    now, told = [0.0], list[str]()
    gate = Gate(GateOptions(connections=400), count=told.append, clock=lambda: now[0])
    for number in range(100):
        assert gate.admit(environ()) is None
        gate.opened(f"a{number}", environ())
    with pytest.raises(Full, match="about to join"):
        gate.admit(environ())
    assert told == ["connectionsRefused"]
    other = environ("10.9.9.9")
    assert gate.admit(other) == "a0", "of the address that has most"
    gate.closed("a0")
    gate.opened("b", other)
    gate.settled("a1")
    assert gate.admit(environ()) is None
    gate.opened("a100", environ())
    now[0] = 3.0
    assert gate.admit(environ()) == "a2", "an old one goes for any other"
    assert (gate.open, gate.unjoined) == (101, 100)
    assert told == ["connectionsRefused", "unjoinedClosed", "unjoinedClosed"]
    assert "that have not joined" in caplog.text


def test_who_leaves_what_it_had_joined_has_not_joined() -> None:
    now = [0.0]
    gate = Gate(clock=lambda: now[0])
    gate.opened("a", environ())
    gate.settled("a")
    gate.parted("a", environ())
    gate.parted("a", environ())
    gate.parted("gone", environ())
    now[0] = 9.0
    assert gate.unsettled(5.0) == ["a"]
