"""Connections: URLs, deadlines, forgotten scripts, forks, and what is said when the server is away."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.backends.conftest import World, draft
from tests.fault.machine.proxy import Proxy
from tests.valkey import Valkey, free_port
from wsapp.backends import redis_wire
from wsapp.backends.redis_broker import RedisBackend
from wsapp.backends.redis_wire import MOST_CONNECTIONS, RedisAddress
from wsapp.core.ports import Limits
from wsapp.errors import BrokerUnavailable, FormatMismatch, SettingsError

TIMEOUT = 0.25


def open_backend(url: str, timeout: float = TIMEOUT) -> RedisBackend:
    return RedisBackend(url, Limits(), channel="stock", timeout=timeout)


class TestAddress:
    @pytest.mark.parametrize(("url", "where", "database"), [
        ("redis://127.0.0.1:6380/2", "127.0.0.1:6380", 2),
        ("valkey://:secret@example.org", "example.org:6379", 0),
        ("rediss://u:secret@example.org:1/0", "example.org:1", 0),
        ("valkeys://example.org:1/1", "example.org:1", 1),
        ("unix:///run/redis.sock?db=3", "/run/redis.sock", 3),
    ])
    def test_parse(self, url: str, where: str, database: int) -> None:
        address = RedisAddress.parse(url)
        assert (address.where, address.database) == (where, database)
        assert address.kind.__name__ == {"rediss": "TlsConnection", "valkeys": "TlsConnection",
                                         "unix": "UnixDomainSocketConnection"}.get(url.split(":")[0], "Connection")

    @pytest.mark.parametrize("url", ["http://x", "127.0.0.1:6379", "redis:/x", "user:secret@host", "redis://h:port",
                                     "redis://h?db=x", "redis://h/news", "redis://h/0?no_such_option=1", "redis://h..x/0"])
    def test_a_url_that_is_none(self, url: str) -> None:
        with pytest.raises(SettingsError, match="Redis URL") as caught:
            RedisAddress.parse(url)
        assert "secret" not in str(caught.value)

    def test_a_timeout_in_the_url_does_not_override_ours(self, valkey: Valkey) -> None:
        connection = RedisAddress.parse(valkey.url + "?socket_timeout=60&max_connections=1").connect(0.5)
        assert connection.socket_timeout == 0.5
        connection.disconnect()

    def test_unix_socket(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.mktemp("s") / "v.sock"
        with Valkey("--unixsocket", str(path)):
            backend = open_backend(f"unix://{path}", 1.0)
            assert backend.broker.publish([draft()])[0].places[0].seq == 1
            backend.close()


class TestAway:
    def test_nobody_listens(self) -> None:
        backend = open_backend(f"redis://:secret@127.0.0.1:{free_port()}/0")
        with pytest.raises(BrokerUnavailable, match="see that it runs") as caught:
            backend.broker.publish([draft()])
        assert "secret" not in str(caught.value)

    def test_a_hung_server_blocks_no_longer_than_the_timeout(self, own_valkey: Valkey) -> None:
        backend = open_backend(own_valkey.url)
        backend.ping()
        own_valkey.stop_process()
        try:
            for _ in range(3):  # over the old connection, then over new ones
                begun = time.monotonic()
                with pytest.raises(BrokerUnavailable, match="no answer within"):
                    backend.broker.publish([draft()])
                assert time.monotonic() - begun < 2 * TIMEOUT
        finally:
            own_valkey.cont()
        assert backend.broker.publish([draft()])[0].status == "accepted"
        backend.close()

    def test_a_name_that_is_looked_up_for_ever(self, own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody waits for it, and when it has been found the connection is there."""
        found, look_up = threading.Event(), socket.getaddrinfo

        def slow(_host: object, *arguments: Any, **options: Any) -> Any:
            found.wait(20)
            return look_up("127.0.0.1", *arguments, **options)

        monkeypatch.setattr(socket, "getaddrinfo", slow)
        backend = open_backend(f"redis://cache.example:{own_valkey.port}")
        for _ in range(3):
            begun = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="no answer within"):
                backend.broker.publish([draft()])
            assert time.monotonic() - begun < 2 * TIMEOUT
        assert sum(thread.name == "wsapp-opening" for thread in threading.enumerate()) == 1, "they wait for the same"
        found.set()
        assert backend.broker.publish([draft()])[0].status == "accepted"
        backend.close()

    def test_a_demoted_primary_is_left_in_the_same_call(self, own_valkey: Valkey) -> None:
        """What it refused is asked at the address again, where another server is the primary by now."""
        with Valkey() as other:
            ports = [own_valkey.port]
            with Proxy(lambda: ports[-1]) as door:
                backend = open_backend(door.url, 2.0)
                first = backend.broker.publish([draft()])[0]
                ports.append(other.port)
                with redis.Redis.from_url(own_valkey.url) as client:
                    client.replicaof("127.0.0.1", other.port)
                second = backend.broker.publish([draft()])[0]
                assert first.places[0].epoch != second.places[0].epoch
                backend.close()

    def test_a_restart_costs_no_failed_call(self, own_valkey: Valkey) -> None:
        backend = open_backend(own_valkey.url, 1.0)
        backend.ping()
        own_valkey.restart()
        assert backend.broker.publish([draft()])[0].status == "accepted"
        backend.close()

    @pytest.mark.parametrize(("config", "message"), [
        ({"maxmemory": "1"}, "out of memory"),
        ({"min-replicas-to-write": "3"}, "too few replicas"),
    ])
    def test_refused_writes(self, own_valkey: Valkey, config: dict[str, str], message: str) -> None:
        backend = open_backend(own_valkey.url, 1.0)
        backend.ping()
        with redis.Redis.from_url(own_valkey.url) as client:
            for name, value in config.items():
                client.config_set(name, value)
            with pytest.raises(BrokerUnavailable, match=message):
                backend.broker.publish([draft("a", "b")])
            for name in config:
                client.config_set(name, "0")
            assert backend.broker.publish([draft("a", "b")])[0].positions["b"].seq == 1
        backend.close()

    def test_a_replica(self, own_valkey: Valkey) -> None:
        backend = open_backend(own_valkey.url, 1.0)
        backend.ping()
        with redis.Redis.from_url(own_valkey.url) as client:
            client.replicaof("127.0.0.1", free_port())
        with pytest.raises(BrokerUnavailable, match="primary"):
            backend.broker.publish([draft()])
        backend.close()

    def test_a_password(self) -> None:
        with Valkey("--requirepass", "secret") as server:
            with pytest.raises(BrokerUnavailable, match="asks for a password"):
                open_backend(server.url, 1.0).ping()
            with pytest.raises(BrokerUnavailable, match="refused the user or the password") as caught:
                open_backend(server.url.replace("//", "//:wrong-pw@"), 1.0).ping()
            assert "wrong-pw" not in str(caught.value)
            backend = open_backend(server.url.replace("//", "//:secret@"), 1.0)
            assert backend.ping() < 1
            backend.close()


def test_forgotten_scripts_are_sent_again_inside_a_pipeline(shared_world: World) -> None:
    backend = shared_world.open()
    backend.broker.publish([draft()])
    with redis.Redis.from_url(str(shared_world.url)) as client:
        client.script_flush()
    receipts = backend.broker.publish([draft() for _ in range(5)])
    assert [receipt.places[0].seq for receipt in receipts] == [2, 3, 4, 5, 6]


def test_a_forked_child_has_connections_of_its_own(shared_world: World) -> None:
    backend = shared_world.open()
    backend.broker.publish([draft()])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            seqs = [backend.broker.publish([draft()])[0].places[0].seq for _ in range(50)]
            status = 0 if seqs == sorted(set(seqs)) else 2
        finally:
            os._exit(status)
    seqs = [backend.broker.publish([draft()])[0].places[0].seq for _ in range(50)]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert seqs == sorted(set(seqs))
    assert backend.broker.publish([draft()])[0].places[0].seq == 102


def test_the_number_of_connections_is_bounded(shared_world: World) -> None:
    backend = shared_world.open()
    assert isinstance(backend, RedisBackend)
    slots = backend._pool._slots
    for _ in range(MOST_CONNECTIONS):
        slots.acquire()
    with pytest.raises(BrokerUnavailable, match="connections wait"):
        backend.ping()


class TestFormat:
    """What a release two steps away has written is not read wrongly, and nothing is written into it."""

    @pytest.fixture
    def raw(self, valkey: Valkey) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(valkey.url) as client:
            yield client

    def stored(self, shared_world: World, raw: redis.Redis) -> str | None:
        found = raw.hget(f"{shared_world.prefix}{{0}}:generation", "format")
        return found.decode() if found is not None else None

    def test_it_stands_in_redis_from_the_first_connection_on(self, shared_world: World, raw: redis.Redis) -> None:
        shared_world.open().ping()
        assert self.stored(shared_world, raw) == "1"

    @pytest.mark.parametrize("there", [0, 3])
    def test_one_that_is_not_read_is_refused(self, shared_world: World, raw: redis.Redis, there: int) -> None:
        shared_world.open().broker.publish([draft()])
        raw.hset(f"{shared_world.prefix}{{0}}:generation", "format", there)
        with pytest.raises(FormatMismatch, match=f"format {there}, and this release reads 1 to 1"):
            shared_world.open().broker.publish([draft()])
        assert self.stored(shared_world, raw) == str(there)
        assert raw.xlen(f"{shared_world.prefix}{{0}}:stream:agent:a") == 1

    def test_neighbours_work_together_and_the_newer_raises_it(self, shared_world: World, raw: redis.Redis,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
        """This release, the next that reads format 2, the one after that which writes it."""
        old = shared_world.open()
        old.ping()
        monkeypatch.setattr(redis_wire, "NEWEST", 2)
        next_one = shared_world.open()
        next_one.ping()
        assert self.stored(shared_world, raw) == "1", "a change ships dark"
        monkeypatch.setattr(redis_wire, "STORED", 2)
        shared_world.open().ping()
        assert self.stored(shared_world, raw) == "2"
        monkeypatch.setattr(redis_wire, "STORED", 1)
        shared_world.open().ping()
        assert self.stored(shared_world, raw) == "2", "it is taken back, and reads on"
        monkeypatch.setattr(redis_wire, "NEWEST", 1)
        with pytest.raises(FormatMismatch):
            shared_world.open().ping()

    def test_data_without_a_number_are_of_the_first_format(self, shared_world: World, raw: redis.Redis) -> None:
        shared_world.open().broker.publish([draft()])
        raw.hdel(f"{shared_world.prefix}{{0}}:generation", "format")
        shared_world.open().ping()
        assert self.stored(shared_world, raw) == "1"
