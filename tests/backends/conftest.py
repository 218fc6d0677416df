"""A backend of each family, and a listener that remembers what it heard."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from tests.valkey import Valkey
from tests.valkey_cluster import ValkeyCluster
from wsapp.backends import open_backend
from wsapp.backends.memory import MemoryBackend
from wsapp.core.events import Draft, Publication, parse_record
from wsapp.core.ports import Backend, Limits

PREFIXES = itertools.count()


def eventually(check: Callable[[], object], within: float = 10.0) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline, f"never: {check}"
        time.sleep(0.005)


def draft(*rooms: str, body: bytes = b"{}", key: str = "", event: str = "agent-thought") -> Draft:
    """A draft for `rooms` (default agent:a)."""
    return Draft(event, rooms or ("agent:a",), body, 1, key=key)


class Listener:
    """Remembers the callbacks of one backend."""

    def __init__(self, backend: Backend, boot: str) -> None:
        self.backend, self.boot = backend, boot
        self.records: list[tuple[str, Publication]] = []
        self.gaps = 0
        self.failures = 0  # how many of the next records raise
        self.bus: list[bytes] = []
        self.control: list[bytes] = []

    def start(self) -> None:
        self.backend.start(self.boot, self._record, self._gap, self.bus.append, self.control.append)

    def _record(self, room: str, record: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a bug of the listener")
        self.records.append((room, parse_record(record)))

    def _gap(self) -> None:
        self.gaps += 1

    def seqs(self, room: str) -> list[int]:
        return [publication.seq(room) for heard, publication in self.records if heard == room]


class World:
    """Opens backends of one family that belong together, and lets time pass for them."""

    def __init__(self, url: str | None, partitions: int = 1) -> None:
        self.url, self.partitions = url, partitions
        self.prefix = f"test{next(PREFIXES)}:"
        self.now = 1_000_000.0
        self._opened: list[Backend] = []
        self._memory: MemoryBackend | None = None

    def open(self, limits: Limits | None = None) -> Backend:
        if self.url is None:
            self._memory = self._memory or MemoryBackend(limits, clock=lambda: self.now)
            return self._memory
        backend = open_backend(self.url, limits or Limits(), channel=self.prefix + "stock", prefix=self.prefix,
                               timeout=1.0, partitions=self.partitions)
        self._opened.append(backend)
        return backend

    def listen(self, limits: Limits | None = None, boot: str = "w1") -> Listener:
        listener = Listener(self.open(limits), boot)
        listener.start()
        return listener

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.url is not None:
            time.sleep(seconds)

    def close(self) -> None:
        for backend in self._opened:
            backend.close()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """One server for all tests that do not hurt it; each test has a prefix of its own."""
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def valkeys() -> Iterator[ValkeyCluster]:
    """Three primaries for all tests that do not hurt them; tests that move slots move them back."""
    with ValkeyCluster(primaries=3) as cluster:
        yield cluster


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server to be killed and hung."""
    with Valkey() as server:
        yield server


@pytest.fixture(params=["memory", "valkey"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Both families, one after the other."""
    world = World(None if request.param == "memory" else request.getfixturevalue("valkey").url)
    yield world
    world.close()


@pytest.fixture
def shared_world(valkey: Valkey) -> Iterator[World]:
    """The family that several processes share."""
    world = World(valkey.url)
    yield world
    world.close()
