"""Servers of other kinds than tests/valkey.py: one that speaks TLS, and sentinels with what they watch over."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import redis

from tests.certificate import Authority, Signed
from tests.valkey import Valkey, free_port

# Debian's redis-tools: the server's binary under another name, which decides what it is by what it is called.
WITH_TLS: Final = ("redis-server", "redis-check-rdb")
SERVICE: Final = "news"
WITHIN: Final = 30.0
DOWN_AFTER: Final = 1500  # ms; with less, a sentinel believes a new primary dead: it takes 1000 to connect
AT_ONCE: Final = ("--repl-diskless-sync-delay", "0")  # replicas need not wait for others to come


@dataclass(frozen=True)
class Papers:
    """What server and client show each other, and the CA that both trust."""

    authority: Authority
    server: Signed
    client: Signed

    @classmethod
    def made(cls, folder: Path) -> Papers:
        authority = Authority(folder)
        return cls(authority, authority.sign("server"), authority.sign("client"))

    @property
    def query(self) -> str:
        """The options of a client's URL."""
        return (f"?ssl_ca_certs={self.authority.path}&ssl_certfile={self.client.certificate}"
                f"&ssl_keyfile={self.client.key}")


def find_tls_binary() -> str | None:
    """A Redis that was built with TLS; None when there is none."""
    return next((path for name in WITH_TLS if (path := shutil.which(name))), None)


class TlsRedis(Valkey):
    """Redis on a TLS port, which asks for a client certificate, and on a plain one."""

    def __init__(self, papers: Papers, *options: str) -> None:
        self.tls_port, self.papers = free_port(), papers
        super().__init__("--tls-port", str(self.tls_port), "--tls-cert-file", str(papers.server.certificate),
                         "--tls-key-file", str(papers.server.key), "--tls-ca-cert-file", str(papers.authority.path),
                         *options)

    def _binary(self) -> str:
        path = find_tls_binary()
        assert path is not None
        return path

    @property
    def tls_url(self) -> str:
        return f"rediss://localhost:{self.tls_port}/0{self.papers.query}"


class Sentinel(Valkey):
    """One sentinel over the primary on a port of the loopback."""

    def __init__(self, primary: int, quorum: int, *lines: str) -> None:
        super().__init__()
        self._primary, self._quorum, self._lines = primary, quorum, lines
        self._conf = Path(tempfile.mkdtemp(prefix="wsapp-test-sentinel-")) / "sentinel.conf"

    def _arguments(self) -> list[str]:
        if not self._conf.exists():  # it writes into it what it learns
            self._conf.write_text(
                f"bind 127.0.0.1\nport {self.port}\ndir {self._conf.parent}\nloglevel warning\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {self._primary} {self._quorum}\n"
                f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}\nsentinel failover-timeout {SERVICE} 3000\n"
                + "".join(line + "\n" for line in self._lines))
        return [str(self._conf), "--sentinel"]

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._conf.parent, ignore_errors=True)


class TlsSentinel(Sentinel):
    """One sentinel that speaks TLS, with the primary too."""

    def __init__(self, papers: Papers, primary: int, quorum: int) -> None:
        self.tls_port = free_port()
        super().__init__(primary, quorum, f"tls-port {self.tls_port}", "tls-replication yes",
                         f"tls-cert-file {papers.server.certificate}", f"tls-key-file {papers.server.key}",
                         f"tls-ca-cert-file {papers.authority.path}")

    def _binary(self) -> str:
        path = find_tls_binary()
        assert path is not None
        return path


class Sentinels:
    """A primary, a replica, and three sentinels over them."""

    def __init__(self) -> None:
        self.servers = [Valkey(*AT_ONCE), Valkey(*AT_ONCE)]
        self.sentinels: list[Sentinel] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        primary, replica = (self._stack.enter_context(server) for server in self.servers)
        follow(replica, primary)
        self.sentinels = [self._stack.enter_context(Sentinel(primary.port, 2)) for _ in range(3)]
        until(lambda: all(self._knows_all(sentinel) for sentinel in self.sentinels), "the sentinels know each other")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _knows_all(self, sentinel: Sentinel) -> bool:
        with redis.Redis(port=sentinel.port) as client:
            told = client.sentinel_master(SERVICE)
            return bool(told["num-slaves"] == 1 and told["num-other-sentinels"] == 2 and told["flags"] == "master")

    @property
    def hosts(self) -> str:
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.hosts}/{SERVICE}/0"

    @property
    def primary(self) -> Valkey:
        """Which one it is now, as the first sentinel says."""
        with redis.Redis(port=self.sentinels[0].port) as client:
            port = int(client.sentinel_get_master_addr_by_name(SERVICE)[1])
        return next(server for server in self.servers if server.port == port)


def follow(replica: Valkey, primary: Valkey, port: int | None = None) -> None:
    """Make one the replica of the other (which it reaches on `port`) and wait until it has everything."""
    with redis.Redis(port=replica.port) as client:
        client.replicaof("127.0.0.1", port or primary.port)
        until(lambda: client.info("replication")["master_link_status"] == "up", "the replica is in step")


def in_step(primary: Valkey, replica: Valkey) -> None:
    """Wait until the replica has everything that the primary has written by now."""
    with redis.Redis(port=primary.port) as client, redis.Redis(port=replica.port) as follower:
        goal = client.info("replication")["master_repl_offset"]
        until(lambda: follower.info("replication")["slave_repl_offset"] >= goal, "the replica is in step")


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)
