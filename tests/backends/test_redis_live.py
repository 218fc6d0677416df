"""The live connection when the server dies, hangs, or throws it out."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest
import redis

from tests.backends.conftest import Listener, World, draft, eventually
from tests.valkey import Valkey
from wsapp.backends import redis_live
from wsapp.backends.redis_broker import RedisBackend
from wsapp.core.ports import Limits
from wsapp.errors import BrokerUnavailable

A, B = "agent:a", "task:b"


@pytest.fixture
def listener(own_valkey: Valkey) -> Iterator[Listener]:
    backend = RedisBackend(own_valkey.url, Limits(), channel="stock", timeout=0.5)
    listener = Listener(backend, "w1")
    listener.start()
    yield listener
    backend.close()


def publish_after_recovery(listener: Listener) -> None:
    eventually(lambda: listener.gaps == 1)
    listener.records.clear()
    listener.backend.broker.publish([draft(A), draft(B)])
    eventually(lambda: listener.seqs(A) and listener.seqs(B))
    listener.backend.bus.publish(b"bus")
    listener.backend.cluster.send("w1", b"control")
    eventually(lambda: (listener.bus, listener.control) == ([b"bus"], [b"control"]))


def test_killed_and_restarted(own_valkey: Valkey, listener: Listener) -> None:
    broker = listener.backend.broker
    broker.subscribe([A])
    own_valkey.kill()
    eventually(lambda: listener.backend.broker._live._away)  # type: ignore[attr-defined]
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="see that it runs"):
        broker.subscribe([B])  # stays wanted
    assert time.monotonic() - begun < 0.4
    own_valkey.start(own_valkey.port)
    publish_after_recovery(listener)


def test_who_hears_that_the_server_is_back_does_not_wait(own_valkey: Valkey, listener: Listener,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches it first tells the live connection, which would pause for long; until it listens it says so."""
    backend = listener.backend
    backend.broker.subscribe([A, B])
    eventually(lambda: backend.deaf is None)
    own_valkey.kill()
    eventually(lambda: "see that it runs" in str(backend.deaf))
    monkeypatch.setattr("random.uniform", lambda *_: 600.0)
    time.sleep(1.0)  # by now its next attempt is a minute away, or more
    own_valkey.start(own_valkey.port)
    backend.ping()
    eventually(lambda: backend.deaf is None)
    publish_after_recovery(listener)


def test_thrown_out_by_the_server(own_valkey: Valkey, listener: Listener) -> None:
    listener.backend.broker.subscribe([A, B])
    with redis.Redis.from_url(own_valkey.url) as client:
        client.client_kill_filter(_type="pubsub")
    publish_after_recovery(listener)


def test_hung(own_valkey: Valkey, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_live, "PING_EVERY", 0.3)
    monkeypatch.setattr(redis_live, "PING_WITHIN", 0.3)
    broker = listener.backend.broker
    broker.subscribe([A])
    own_valkey.stop_process()
    try:
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="no answer within"):
            broker.subscribe([B])
        assert time.monotonic() - begun < 1.0
        eventually(lambda: broker._live._away)  # type: ignore[attr-defined]
    finally:
        own_valkey.cont()
    publish_after_recovery(listener)


def test_silence_alone_is_no_reason_to_reconnect(own_valkey: Valkey, listener: Listener,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_live, "PING_EVERY", 0.05)
    monkeypatch.setattr(redis_live, "PING_WITHIN", 2.0)
    listener.backend.broker.subscribe([A])
    with redis.Redis.from_url(own_valkey.url, decode_responses=True) as client:
        before = client.info("commandstats")["cmdstat_ping"]["calls"]
        eventually(lambda: client.info("commandstats")["cmdstat_ping"]["calls"] > before + 1)
    listener.backend.broker.publish([draft()])
    eventually(lambda: listener.seqs(A) == [1])
    assert listener.gaps == 0


def test_a_server_that_comes_late(own_valkey: Valkey) -> None:
    port = own_valkey.port
    own_valkey.kill()
    listener = Listener(RedisBackend(own_valkey.url, Limits(), channel="stock", timeout=0.5), "w1")
    with pytest.raises(BrokerUnavailable, match="not started"):
        listener.backend.broker.subscribe([A])
    listener.start()
    with pytest.raises(BrokerUnavailable):
        listener.backend.broker.subscribe([B])
    own_valkey.start(port)
    publish_after_recovery(listener)
    listener.backend.close()


def test_thousands_of_rooms_come_back(own_valkey: Valkey, listener: Listener) -> None:
    rooms = [f"agent:{i}" for i in range(2500)]
    listener.backend.broker.subscribe(rooms)
    with redis.Redis.from_url(own_valkey.url) as client:
        client.client_kill_filter(_type="pubsub")
        eventually(lambda: listener.gaps == 1)
        assert len(client.pubsub_channels("wsapp:*")) == 2502, "the bus and the control channel among them"
    listener.backend.broker.publish([draft(room) for room in rooms])
    eventually(lambda: len(listener.records) == 2500)


def test_many_threads_join_and_leave(shared_world: World) -> None:
    listener = shared_world.listen()
    broker = listener.backend.broker
    errors: list[BaseException] = []

    def run(name: str) -> None:
        try:
            for i in range(50):
                room = f"agent:{name}-{i}"
                broker.subscribe([room])
                broker.publish([draft(room)])
                eventually(partial(lambda room: listener.seqs(room) == [1], room))
                broker.unsubscribe([room])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(str(n),)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_close_is_prompt_and_ends_the_thread(shared_world: World) -> None:
    before = set(threading.enumerate())
    listener = shared_world.listen()
    listener.backend.broker.subscribe([A])
    begun = time.monotonic()
    listener.backend.close()
    assert time.monotonic() - begun < 0.5
    eventually(lambda: not set(threading.enumerate()) - before)
    with pytest.raises(RuntimeError):
        listener.start()


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import sys, time, threading, gevent
from wsapp.backends import open_backend
from wsapp.core.events import Draft
from wsapp.core.ports import HistoryQuery, Limits

backend = open_backend(sys.argv[1], Limits(), channel="stock", prefix=sys.argv[2], timeout=1.0)
heard, gaps = [], []
backend.start("w1", lambda room, record: heard.append(room), lambda: gaps.append(1), print, print)
backend.broker.subscribe(["agent:a"])

ticks = []
def tick():
    while True:
        ticks.append(time.monotonic()); gevent.sleep(0.001)
ticker = gevent.spawn(tick)

def publish(n):
    for _ in range(20):
        backend.broker.publish([Draft("e", ("agent:a",), b"{}", 1)])
gevent.joinall([gevent.spawn(publish, n) for n in range(60)], raise_error=True)
deadline = time.monotonic() + 10
while len(heard) < 1200 and time.monotonic() < deadline:
    gevent.sleep(0.01)
assert len(heard) == 1200, len(heard)
assert backend.broker.read([HistoryQuery("agent:a", limit=2000)])[0].head.seq == 1200
assert len(ticks) > 5, len(ticks)
assert not any("gevent" in (module.__file__ or "") for name, module in sys.modules.items()
               if name.startswith("wsapp") and hasattr(module, "__file__"))
backend.close()
import gevent.hub
print("fine", len(ticks))
"""


def test_in_a_gevent_worker(shared_world: World) -> None:
    """In a process of its own, patched as a worker is: 60 greenlets publish over 32 connections and all is heard."""
    done = subprocess.run([sys.executable, "-c", GREENLETS, str(shared_world.url), shared_world.prefix],
                          capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout[:4]) == (0, "fine"), done.stderr
