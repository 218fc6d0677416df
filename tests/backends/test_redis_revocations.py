"""Revocations, held against both families; and their keys in Redis."""

from __future__ import annotations

import time

import redis

from tests.backends.conftest import World, eventually
from wsapp.backends.redis_keys import RedisKeys

A, B = "jti:" + "a" * 40, "user:" + "b" * 40


def now(world: World) -> float:
    return world.now if world.url is None else time.time()


def test_what_is_revoked_is_told_with_its_time(world: World) -> None:
    revocations, at = world.open().revocations, now(world)
    assert revocations.revoked([A, B]) == {}
    assert revocations.revoked([]) == {}
    revocations.revoke(A, at, at + 60)
    assert revocations.revoked([B, A]) == {A: at}


def test_it_ends_when_it_is_not_needed_any_more(world: World) -> None:
    revocations, at = world.open().revocations, now(world)
    revocations.revoke(A, at, at + 0.2)
    revocations.revoke(B, at, at - 1)
    assert revocations.revoked([A, B]) == {A: at}
    world.pass_time(0.3)
    assert revocations.revoked([A]) == {}


def test_revoking_again_never_shortens(world: World) -> None:
    revocations, at = world.open().revocations, now(world)
    revocations.revoke(A, at, at + 60)
    revocations.revoke(A, at - 30, at + 0.1)
    world.pass_time(0.2)
    assert revocations.revoked([A]) == {A: at}
    revocations.revoke(A, at + 0.1, at + 60)
    assert revocations.revoked([A]) == {A: at + 0.1}


def test_every_worker_is_told(world: World) -> None:
    listener = world.listen(boot="w1")
    listener.backend.cluster.beat("w1", {}, 60)
    at = now(world)

    def told() -> bool:  # until the live connection stands, nobody hears
        listener.backend.revocations.revoke(A, at, at + 60)
        return f"revoked {A} {at!r} {at + 60!r}".encode() in listener.control
    eventually(told)


def test_every_worker_of_a_cluster(shared_world: World) -> None:
    listeners = [shared_world.listen(boot=f"w{number}") for number in range(3)]
    for listener in listeners:
        listener.backend.cluster.beat(listener.boot, {}, 60)
    at = time.time()

    def told() -> bool:
        shared_world.open().revocations.revoke(B, at, at + 60)
        return all(f"revoked {B} {at!r} {at + 60!r}".encode() in listener.control for listener in listeners)
    eventually(told)


def test_the_key_lives_as_long_as_what_it_revokes(shared_world: World) -> None:
    at = time.time()
    shared_world.open().revocations.revoke(A, at, at + 100)
    with redis.Redis.from_url(str(shared_world.url)) as client:
        key = RedisKeys(shared_world.prefix).revocation(A)
        assert 95 < client.ttl(key) <= 100
