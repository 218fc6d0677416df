"""A Redis that is there and does not do what is asked: each way is told with its fix, costs nobody his patience, loses
nothing and heals by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from tests.clients.fleet import Fleet, fresh
from tests.fault.machine.proxy import Link, Proxy
from tests.harness import Server, wait_until
from tests.redis_servers import SERVICE, Sentinel
from tests.valkey import Valkey, free_port
from wsapp import Emitter
from wsapp.errors import BrokerUnavailable

pytestmark = pytest.mark.cluster

QUICK = {"MAX_EVENTS_PER_SEC": "1000", "WSAPP_HEARTBEAT": "0.5", "WSAPP_HEADS_INTERVAL": "0.5"}
DEBUG = ("--enable-debug-command", "local", "--busy-reply-threshold", "100",
         "--loading-process-events-interval-bytes", "1024")
Direct = redis.Redis


class Knife(Proxy):
    """A proxy that cuts each connection in the middle of what goes through.  `up` and `down`: how many bytes of the
    next pass before that."""

    up: int | None = None
    down: int | None = None

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        while data := await reader.read(65_536):
            left = self.up if up else self.down
            writer.write(data if left is None else data[:left])
            await writer.drain()
            if left is not None:
                break
        link.cut()


@dataclass
class Scene:
    """One worker, its Valkey, and the knife between them.  `admin` is beside the knife."""

    valkey: Valkey
    knife: Knife
    server: Server
    admin: Direct

    def post(self, agent: str, count: int) -> list[dict[str, Any]]:
        """Publish through the worker."""
        return [self.server.post("/publish", {"thought": {"agentId": agent, "thought": f"thought {number}"}}).json()
                for number in range(count)]

    def not_ready(self) -> str:
        """Why not; empty when it is ready."""
        return str(self.server.get("/readyz").json().get("reason", ""))

    def recorded(self, agent: str) -> str:
        return repr(self.admin.xrange(f"wsapp:{{0}}:stream:agent:{agent}"))


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Valkey(*DEBUG) as valkey, Direct(port=valkey.port, username="admin", password="x") as admin, \
            Direct(port=valkey.port) as anybody:
        anybody.execute_command("ACL", "SETUSER", "admin", "on", ">x", "+@all", "~*", "&*")
        with Knife(valkey.port) as knife, Server(1, knife.url, QUICK, "tests.apps.host:app") as server:
            yield Scene(valkey, knife, server, admin)


@contextmanager
def configured(admin: Direct, name: str, value: str, after: str) -> Iterator[None]:
    admin.config_set(name, value)
    try:
        yield
    finally:
        admin.config_set(name, after)


@contextmanager
def a_replica(scene: Scene) -> Iterator[None]:
    scene.admin.replicaof("127.0.0.1", free_port())
    try:
        yield
    finally:
        scene.admin.replicaof("NO", "ONE")


@contextmanager
def another_user(scene: Scene, taken: tuple[str, ...], given: tuple[str, ...]) -> Iterator[None]:
    scene.admin.execute_command("ACL", "SETUSER", "default", *taken)
    scene.admin.execute_command("CLIENT", "KILL", "USER", "default")
    try:
        yield
    finally:
        scene.admin.execute_command("ACL", "SETUSER", "default", *given)


@contextmanager
def a_busy_script(scene: Scene) -> Iterator[None]:
    with Direct(port=scene.valkey.port, username="admin", password="x", socket_timeout=60) as busy:
        thread = threading.Thread(target=_ignoring, args=(lambda: busy.eval("while true do end", 0),))
        thread.start()
        try:
            yield
        finally:
            scene.admin.script_kill()
            thread.join()


@contextmanager
def loading(scene: Scene) -> Iterator[None]:
    """DEBUG RELOAD, a thousandth of a second for every key."""
    with Direct(port=scene.valkey.port, username="admin", password="x", socket_timeout=60) as slow:
        with slow.pipeline() as many:
            for number in range(700):
                many.set(f"other:{number}", "x" * 100)
            many.execute()
        slow.config_set("key-load-delay", 1000)
        thread = threading.Thread(target=slow.execute_command, args=("DEBUG", "RELOAD"))
        thread.start()
        try:
            yield
        finally:
            thread.join()
            slow.config_set("key-load-delay", 0)
            slow.delete(*slow.keys("other:*"))


def _ignoring(work: Callable[[], object]) -> None:
    try:
        work()
    except redis.RedisError as error:
        assert "killed" in str(error).lower()  # noqa: PT017 - in a thread


@contextmanager
def cut(scene: Scene, up: int | None = None, down: int | None = None) -> Iterator[None]:
    scene.knife.up, scene.knife.down = up, down
    try:
        yield
    finally:
        scene.knife.up = scene.knife.down = None


WAYS: dict[str, tuple[Callable[[Scene], AbstractContextManager[None]], str]] = {
    "replica": (a_replica, "point the Redis URL at the primary"),
    "no memory": (lambda scene: configured(scene.admin, "maxmemory", "1", "0"), "raise maxmemory"),
    "too few replicas": (lambda scene: configured(scene.admin, "min-replicas-to-write", "2", "0"), "bring them back"),
    "busy": (a_busy_script, "SCRIPT KILL"),
    "loading": (loading, "wait until it is ready"),
    "no right": (lambda scene: another_user(scene, ("-evalsha",), ("+@all",)), "'evalsha' command"),
    "another password": (lambda scene: another_user(scene, ("resetpass", ">new"), ("nopass",)), "asks for a password"),
    "half a command": (lambda scene: cut(scene, up=20), "closed the connection"),
    "half an answer": (lambda scene: cut(scene, down=10), "closed the connection"),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_told_and_heals(fleet: Fleet, scene: Scene, way: str) -> None:
    make, fix = WAYS[way]
    agent = fresh("agent")
    wait_until(scene.server.ready, "ready")
    client = fleet.python(scene.server)
    client.subscribe("agent", agent)
    receipts = scene.post(agent, 3)
    with make(scene):
        receipts += wait_until(lambda: _queued(scene, agent), "a publication that is queued")
        receipts += scene.post(agent, 5)
        assert {receipt["status"] for receipt in receipts[-5:]} == {"queued"}
        wait_until(lambda: fix in scene.not_ready(), fix)
        for receipt in receipts[-5:]:
            client.wait(lambda: receipt["id"] in client.ids(), "its own clients are served")  # noqa: B023
    wait_until(scene.server.ready, "ready again")
    receipts += scene.post(agent, 3)
    assert receipts[-1]["status"] == "accepted"
    client.wait(lambda: {receipt["id"] for receipt in receipts} <= set(client.ids()), "everything")
    assert max(receipt["took"] for receipt in receipts) < 0.5
    recorded = scene.recorded(agent)
    places = [recorded.index(f"thought {number}") for number in range(3)]
    assert places == sorted(places)
    assert all(receipt["id"] in recorded for receipt in receipts)


def _queued(scene: Scene, agent: str) -> list[dict[str, Any]]:
    """What it takes until one is queued, all of it; nothing while there was none."""
    found = scene.post(agent, 1)
    while found[-1]["status"] != "queued" and len(found) < 200:
        found += scene.post(agent, 1)
    return found if found[-1]["status"] == "queued" else []


def test_forgotten_scripts_are_nobodys_trouble(fleet: Fleet, scene: Scene) -> None:
    agent = fresh("agent")
    wait_until(scene.server.ready, "ready")
    for _ in range(5):
        scene.admin.script_flush()
        assert {receipt["status"] for receipt in scene.post(agent, 2)} == {"accepted"}


def test_reading_goes_on_without_memory(fleet: Fleet, scene: Scene) -> None:
    agent = fresh("agent")
    wait_until(scene.server.ready, "ready")
    kept = scene.post(agent, 5)
    client = fleet.python(scene.server)
    client.subscribe("agent", agent)
    with configured(scene.admin, "maxmemory", "1", "0"):
        wait_until(lambda: "raise maxmemory" in scene.not_ready(), "no memory")
        page = client.request("history", {"room": f"agent:{agent}"})
        assert {event["id"] for event in page["events"]} == {receipt["id"] for receipt in kept}


def test_a_wrong_password_at_boot(scene: Scene) -> None:
    """One line with the fix, in the log and in /readyz; the server is there, and comes to its senses by itself."""
    url = f"redis://late:secret@127.0.0.1:{scene.valkey.port}/0"
    with closing(Server(2, url, QUICK).start(wait=False)) as server:
        wait_until(lambda: _reason(server), "it answers")
        assert "refused the user or the password of the Redis URL: correct them" in _reason(server)
        [line, *_] = [line for line in server.log_tail().splitlines() if "Redis is away" in line]
        assert "refused the user or the password of the Redis URL: correct them" in line
        assert "secret" not in server.log_tail()
        scene.admin.execute_command("ACL", "SETUSER", "late", "on", ">secret", "+@all", "~*", "&*")
        wait_until(server.ready, "ready")


def _reason(server: Server) -> str:
    try:
        return str(server.get("/readyz", timeout=5).json().get("reason", ""))
    except OSError:
        return ""


@pytest.mark.parametrize(("query", "message"), [
    ("/nothing/0", "knows no service 'nothing'"),
    ("/" + SERVICE, "its primary is Redis at 127.0.0.1:1: not reachable"),
])
def test_sentinels_that_do_not_help(query: str, message: str) -> None:
    with Sentinel(1, 2) as sentinel, Emitter(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}{query}",
                                             timeout=2.0) as emitter, \
            pytest.raises(BrokerUnavailable, match=message):
        emitter.broadcast_project_event("p", "news")
