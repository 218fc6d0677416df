"""Many clients at once, of either kind, closed when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar
from uuid import uuid4

from tests.clients.node_client import Node, NodeClient
from tests.clients.python_client import PythonClient
from tests.clients.recorder import Recorder
from tests.harness import Server

T = TypeVar("T")
R = TypeVar("R")


def fresh(prefix: str = "x") -> str:
    """An id nobody else uses."""
    return f"{prefix}-{uuid4().hex[:10]}"


class Fleet:
    """Opens, remembers and closes clients."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._clients: list[Recorder] = []
        self._pool = ThreadPoolExecutor(24)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.each(self._clients, lambda client: client.close())
        self._pool.shutdown()

    def each(self, items: Iterable[T], work: Callable[[T], R]) -> list[R]:
        """`work` on every item, side by side."""
        return list(self._pool.map(work, items))

    def npm(self, server: Server, transport: str = "websocket", **options: Any) -> NodeClient:
        """One npm client, connected and told its session."""
        client = self._node.open(server.url, transport, **_trusting(server), **options)
        self._clients.append(client)
        client.wait_for("connect")
        client.wait_session()
        return client

    def python(self, server: Server, transport: str = "websocket", **options: Any) -> PythonClient:
        """One python client, connected and told its session."""
        client = PythonClient(server.url, transport, ca=server.ca, **options)
        self._clients.append(client)
        client.wait_session()
        return client

    def open(self, server: Server, kind: str, transport: str = "websocket", **options: Any) -> Recorder:
        """One client of a kind: `npm` or `python`."""
        return self.npm(server, transport, **options) if kind == "npm" else self.python(server, transport, **options)

    def many(self, server: Server, kind: str, transport: str, count: int, **options: Any) -> list[Recorder]:
        """`count` of them, opened side by side."""
        return self.each(range(count), lambda _: self.open(server, kind, transport, **options))


def _trusting(server: Server) -> dict[str, Any]:
    return {"ca": server.ca.read_text()} if server.ca else {}


def publish(server: Server, agent: str, count: int, start: int = 0) -> list[str]:
    """Publish numbered thoughts of an agent; their ids, which grow."""
    ids = [server.emitter.broadcast_agent_thought({"agentId": agent, "thought": f"thought {number}"}).id
           for number in range(start, start + count)]
    assert ids == sorted(ids, key=lambda id: [part.zfill(24) for part in id.split("-")])
    return ids


def thoughts(client: Recorder, agent: str) -> list[str]:
    """What one agent thought, as the client saw it, repeats dropped by id."""
    mine = {item["id"]: item["thought"] for item in client.items() if item["agentId"] == agent}
    return list(mine.values())


def spread(clients: Sequence[Recorder], server: Server) -> dict[int | None, int]:
    """How many clients each worker holds."""
    counts: dict[int | None, int] = {}
    for client in clients:
        worker = server.worker_of(client.local_port())
        counts[worker] = counts.get(worker, 0) + 1
    return counts
