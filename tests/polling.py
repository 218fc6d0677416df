"""A Socket.IO client over the real HTTP face of a SocketServer in this process: Engine.IO polling, no sockets."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask

SEPARATOR = "\x1e"


class PollingClient:
    """One transport session.  `packets` are Socket.IO packets as text, binary ones as `b...`."""

    def __init__(self, app: Flask) -> None:
        self._http = app.test_client()
        opened = self._http.get("/socket.io/?EIO=4&transport=polling")
        assert opened.status_code == 200, opened.text
        self.sid: str = json.loads(opened.text[1:])["sid"]
        self._path = f"/socket.io/?EIO=4&transport=polling&sid={self.sid}"
        self._waiting: list[str] = []
        self._acks = 0
        self.events: list[list[Any]] = []

    def send(self, *packets: str) -> int:
        """POST Engine.IO packets; the status."""
        return self._http.post(self._path, data=SEPARATOR.join(packets).encode()).status_code

    def next(self) -> str:
        """The next packet; waits for it."""
        while not self._waiting:
            answer = self._http.get(self._path)
            assert answer.status_code == 200, answer.text
            self._waiting = [packet for packet in answer.text.split(SEPARATOR) if packet not in ("2", "6")]
        return self._waiting.pop(0)

    def until(self, prefix: str) -> str:
        """The next packet that begins so; events before it are kept in `events`."""
        while True:
            packet = self.next()
            if packet.startswith("42["):
                self.events.append(json.loads(packet[2:]))
            if packet.startswith(prefix):
                return packet

    def connect(self, auth: dict[str, Any] | None = None) -> dict[str, Any]:
        """CONNECT; what `session` told."""
        self.send("40" + (json.dumps(auth) if auth is not None else ""))
        first = self.next()
        assert first.startswith("40"), first
        self.hello = json.loads(first[2:])
        told: dict[str, Any] = json.loads(self.until('42["session"')[2:])[1]
        return told

    def ask(self, name: str, *arguments: Any) -> Any:
        """Emit with an acknowledgement and wait for it."""
        self._acks += 1
        self.send(f"42{self._acks}" + json.dumps([name, *arguments]))
        prefix = f"43{self._acks}["
        return json.loads(self.until(prefix)[len(prefix) - 1:])[0]

    def of(self, name: str) -> list[Any]:
        """First arguments of the events so far; the acknowledgement of a later question proves that none is left."""
        self.ask("nobody-knows-this")
        return [event[1] for event in self.events if event[0] == name]
