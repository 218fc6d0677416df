"""What the contract test cannot see: the list of workers, and the stock channel's name."""

from __future__ import annotations

import redis

from tests.backends.conftest import World
from wsapp.backends.redis_keys import RedisKeys


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


def test_the_stock_channel_is_used_verbatim(shared_world: World) -> None:
    backend = shared_world.open()
    with redis.Redis.from_url(str(shared_world.url)) as client, client.pubsub() as pubsub:
        pubsub.subscribe(shared_world.prefix + "stock")
        assert pubsub.get_message(timeout=5) is not None
        backend.bus.publish(b"x")
        message = pubsub.get_message(timeout=5)
        assert message is not None
        assert message["data"] == b"x"
