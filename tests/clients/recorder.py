"""What every test client has in common: it records what it sees, in order, with the time, and waits for conditions."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import pytest

DEADLINE: Final = 30.0
TRANSPORTS: Final = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}


class Seen(NamedTuple):
    """One thing a client saw.  `connect`, `disconnect` (reason, close code or None) and `upgrade` are among them."""

    event: str
    args: tuple[Any, ...]
    at: float


class Recorder(ABC):
    """One connection to the server that comes back by itself, as both stock clients do."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self.seen: list[Seen] = []
        self.connected = False

    def record(self, event: str, *args: Any) -> None:
        with self._news:
            if event in ("connect", "disconnect"):
                self.connected = event == "connect"
            self.seen.append(Seen(event, args, time.monotonic()))
            self._news.notify_all()

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = DEADLINE) -> Any:
        """The first true value of `condition`, looked at whenever something arrives."""
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                value = condition()
                if value:
                    return value
                left = deadline - time.monotonic()
                if left <= 0:
                    pytest.fail(f"{self} waited {timeout:g} s in vain for {what}; it saw {self.summary()}")
                self._news.wait(min(left, 0.5))

    def summary(self) -> str:
        tail = [f"{seen.event}{repr(seen.args)[:120]}" for seen in self.seen[-12:]]
        return f"{len(self.seen)} events, the last: {' '.join(tail)}"

    def all(self, event: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.event == event]

    def wait_for(self, event: str, count: int = 1, timeout: float = DEADLINE) -> list[Seen]:
        """At least `count` of an event."""
        self.wait(lambda: len(self.all(event)) >= count, f"{count} x {event}", timeout)
        return self.all(event)

    def items(self, event: str = "agent-thought") -> list[dict[str, Any]]:
        """The data of every event of a name in order; an array of thoughts and a `batch` count as their members."""
        found: list[dict[str, Any]] = []
        for seen in list(self.seen):
            if seen.event == "batch":
                found.extend(data for name, data, *_ in seen.args[0] if name == event)
            elif seen.event == event:
                data = seen.args[0]
                found.extend(data if isinstance(data, list) else [data])
        return found

    def ids(self, event: str = "agent-thought") -> list[str]:
        """Ids as they came, repeats dropped, as an app is told to do."""
        return list(dict.fromkeys(str(item["id"]) for item in self.items(event)))

    def wait_ids(self, ids: Iterable[str], event: str = "agent-thought", timeout: float = DEADLINE) -> None:
        """All of `ids` have come, in their order."""
        wanted = list(ids)
        known = set(wanted)
        self.wait(lambda: known <= set(self.ids(event)), f"{len(wanted)} ids of {event}", timeout)
        got = [id for id in self.ids(event) if id in known]
        assert got == wanted, f"{self}: order broken: {_first_difference(got, wanted)}"

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The `session` events so far, one per connection."""
        return [seen.args[0] for seen in self.all("session")]

    def wait_session(self, count: int = 1, timeout: float = DEADLINE) -> dict[str, Any]:
        """The `session` event of the n-th connection."""
        self.wait(lambda: len(self.sessions) >= count, f"session {count}", timeout)
        return self.sessions[count - 1]

    def wait_drop(self, count: int = 1, timeout: float = DEADLINE) -> Seen:
        """The n-th disconnect."""
        return self.wait_for("disconnect", count, timeout)[count - 1]

    def subscribe(self, kind: str, id: str, since: object = None) -> dict[str, Any]:
        """Subscribe and insist on the ack being ok."""
        ack = self.request(f"subscribe-{kind}", id if since is None else {"id": id, "since": since})
        assert isinstance(ack, dict) and ack["ok"] is True, f"{self}: {ack}"
        assert ack["room"] == f"{kind}:{id}"
        return ack

    @abstractmethod
    def request(self, event: str, *args: Any, timeout: float = DEADLINE) -> Any:
        """Emit and return the first argument of the ack."""

    @abstractmethod
    def transport(self) -> str:
        """`polling` or `websocket`."""

    @abstractmethod
    def local_port(self) -> int:
        """The port of this end of the websocket."""

    @abstractmethod
    def drop(self) -> None:
        """Lose the transport; the client comes back by itself."""

    @abstractmethod
    def close(self) -> None:
        """Leave for good."""


def _first_difference(got: list[str], wanted: list[str]) -> str:
    for place, (mine, theirs) in enumerate(zip(got, wanted, strict=False)):
        if mine != theirs:
            return f"at {place} came {got[place:place + 5]}, wanted {wanted[place:place + 5]}"
    return f"{len(got)} of {len(wanted)}"
