"""socket.io-client from npm as a test client: one node process drives any number of them."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

import pytest

from tests.clients.recorder import DEADLINE, TRANSPORTS, Recorder

DRIVER = Path(__file__).with_name("driver.js")


class Node:
    """The node process.  Commands go in and events come out as JSON lines; see driver.js."""

    def __init__(self) -> None:
        node = shutil.which("node")
        if node is None:
            pytest.skip("node is not installed")
        self._process = subprocess.Popen([node, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True, encoding="utf-8")
        self._writing = threading.Lock()
        self._clients: dict[int, NodeClient] = {}
        self._numbers = itertools.count(1)
        self._reader = threading.Thread(target=self._read, name="node driver", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def open(self, url: str, transport: str = "websocket", auth: dict[str, Any] | None = None,
             **options: Any) -> NodeClient:
        """Start one client; returns at once, `wait_for("connect")` tells when it is there."""
        client = NodeClient(self, next(self._numbers))
        self._clients[client.number] = client
        self.tell(client, "open", url=url, options={
            "transports": TRANSPORTS[transport], "auth": auth or {}, "forceNew": True, "reconnectionDelay": 50,
            "reconnectionDelayMax": 500, **options})
        return client

    def tell(self, client: NodeClient, command: str, **fields: Any) -> None:
        """Give one command."""
        line = json.dumps({"cmd": command, "client": client.number, **fields})
        assert self._process.stdin is not None
        with self._writing:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            self._clients[told.pop("client")].told(told)

    def stop(self) -> None:
        """Close stdin, which ends the process and every client in it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._reader.join(10)


class NodeClient(Recorder):
    """One socket.io-client."""

    def __init__(self, node: Node, number: int) -> None:
        super().__init__()
        self.number = number
        self.recovered: list[bool] = []
        self._node = node
        self._calls = itertools.count(1)
        self._answers: dict[int, Any] = {}

    def __repr__(self) -> str:
        return f"<npm client {self.number}>"

    def told(self, line: dict[str, Any]) -> None:
        """Take one line of the driver."""
        kind = line["type"]
        if kind in ("ack", "stats"):
            with self._news:
                self._answers[line["call"]] = line
                self._news.notify_all()
        elif kind == "event":
            self.record(line["name"], *line["args"])
        elif kind == "connect":
            self.recovered.append(line["recovered"])
            self.record("connect", line["id"])
        elif kind == "disconnect":
            self.record("disconnect", line["reason"], line["code"])
        else:
            self.record(kind, line.get("detail"))

    def _ask(self, command: str, timeout: float, **fields: Any) -> dict[str, Any]:
        call = next(self._calls)
        self._node.tell(self, command, call=call, **fields)
        self.wait(lambda: call in self._answers, f"the answer to {command} {fields}", timeout)
        answer: dict[str, Any] = self._answers.pop(call)
        return answer

    def request(self, event: str, *args: Any, timeout: float = DEADLINE) -> Any:
        answer = self._ask("emit", timeout, event=event, args=args)["args"]
        return answer[0] if answer else None

    def emit(self, event: str, *args: Any) -> None:
        """Emit and wait for nothing."""
        self._node.tell(self, "emit", call=next(self._calls), event=event, args=args)

    def transport(self) -> str:
        return str(self._ask("stats", DEADLINE)["transport"])

    def local_port(self) -> int:
        return int(self._ask("stats", DEADLINE)["localPort"])

    def drop(self) -> None:
        self._node.tell(self, "drop")

    def cut(self) -> None:
        """Destroy the TCP connection: no close frame."""
        self._node.tell(self, "cut")

    def connect(self) -> None:
        """Come back by hand after `drop(stay=True)`."""
        self._node.tell(self, "connect")

    def leave(self) -> None:
        """Lose the transport and stay away until `connect`."""
        self._node.tell(self, "leave")

    def pause(self) -> None:
        """Stop reading from the socket: a slow client."""
        self._node.tell(self, "pause")

    def resume(self) -> None:
        """Read again."""
        self._node.tell(self, "resume")

    def close(self) -> None:
        self._node.tell(self, "close")
