"""What the contract test cannot see: the list of workers, and the names of the buses."""

from __future__ import annotations

import redis

from tests.backends.conftest import Listener, World, eventually
from wsapp.backends.redis_broker import RedisBackend
from wsapp.backends.redis_keys import RedisKeys
from wsapp.core.ports import Limits


def test_the_dead_are_taken_off_the_list(shared_world: World) -> None:
    cluster = shared_world.open().cluster
    cluster.beat("w1", {}, 30)
    cluster.beat("w2", {}, 0.02)
    shared_world.pass_time(0.05)
    keys = RedisKeys(shared_world.prefix)
    with redis.Redis.from_url(str(shared_world.url), decode_responses=True) as client:
        assert client.smembers(keys.workers) == {"w1", "w2"}
        assert list(cluster.workers()) == ["w1"]
        assert client.smembers(keys.workers) == {"w1"}


def test_the_bus_of_one_deployment_is_not_heard_in_another(shared_world: World) -> None:
    """Another prefix or database on the same server; the stock channel is heard by all that name it."""
    url, stock = str(shared_world.url), shared_world.prefix + "stock"
    places = [(url, shared_world.prefix), (url, shared_world.prefix + "other:"), (f"{url[:url.rindex('/')]}/1",
                                                                                 shared_world.prefix)]
    backends = [RedisBackend(each, Limits(), channel=stock, prefix=prefix) for each, prefix in places]
    try:
        listeners = [Listener(backend, f"w{number}") for number, backend in enumerate(backends)]
        for listener in listeners:
            listener.start()
            listener.backend.broker.subscribe([f"agent:{listener.boot}"])
        for number, backend in enumerate(backends):
            backend.bus.publish(b"%d" % number)
        with redis.Redis.from_url(url) as client:
            client.publish(stock, b"all")
        eventually(lambda: [len(listener.bus) for listener in listeners] == [2, 2, 2])
        assert [listener.bus for listener in listeners] == [[b"%d" % number, b"all"] for number in range(3)]
    finally:
        for backend in backends:
            backend.close()
