"""Where other hosts are: what a lease says, what is believed of others' leases, and how often they are read."""

from __future__ import annotations

import gevent
import pytest

from wsapp.backends.memory import MemoryBackend
from wsapp.errors import BrokerUnavailable
from wsapp.runtime.addresses import FACT, Addresses
from wsapp.settings import Settings
from wsapp.transport.hosts.route import Listening, Route

ANY = Listening((("0.0.0.0", 3001),))


class Place:
    """Workers on one memory backend, on a clock that stands still."""

    def __init__(self, **settings: object) -> None:
        self.now, self.reads = 100.0, 0
        self.cluster = MemoryBackend(clock=lambda: self.now).cluster
        self._workers, self.cluster.workers = self.cluster.workers, self._counted  # type: ignore[method-assign]
        self.addresses = self.another(**settings)

    def _counted(self) -> dict[str, dict[str, object]]:
        self.reads += 1
        return self._workers()

    def another(self, machine: str = "here", listening: Listening = ANY, **settings: object) -> Addresses:
        made = Addresses(self.cluster, Settings(**{"redis_url": "redis://127.0.0.1", **settings}),  # type: ignore[arg-type]
                         lambda: self.now)
        made._machine = machine
        made.start(listening)
        return made

    def beat(self, token: str, addresses: Addresses) -> None:
        self.cluster.beat(token, {"users": 1, **addresses.fact()}, 6.0)


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.mark.parametrize(("listening", "settings", "address"), [
    ((("10.0.0.5", 3001),), {}, ("10.0.0.5", 3001)),
    ((("127.0.0.1", 3001),), {}, ("127.0.0.1", 3001)),
    ((("127.0.0.1", 3001), ("10.0.0.5", 3002)), {}, ("10.0.0.5", 3002)),
    ((("0.0.0.0", 3001),), {}, ("127.0.0.1", 3001)),
    ((("::", 3001),), {"redis_url": "rediss://u:p@127.0.0.1:6390,10.255.0.1/0"}, ("127.0.0.1", 3001)),
    ((("0.0.0.0", 3001),), {"redis_url": "unix:///run/redis"}, ("127.0.0.1", 3001)),
    ((("0.0.0.0", 3001),), {"advertise": "pod-1.svc"}, ("pod-1.svc", 3001)),
    ((("0.0.0.0", 3001),), {"advertise": "[fd00::5]:80"}, ("fd00::5", 80)),
    ((("0.0.0.0", 3001),), {"redis_url": "redis://no-such-name.invalid"}, None),
    ((("0.0.0.0", 3001),), {"advertise": "off"}, None),
    ((), {}, None)])
def test_a_workers_own_address(place: Place, listening: tuple[tuple[str, int], ...], settings: dict[str, object],
                               address: tuple[str, int] | None) -> None:
    fact = place.another(listening=Listening(listening), **settings).fact()
    told = fact.get(FACT)
    assert told is None if address is None else (told["host"], told["port"]) == address  # type: ignore[index]


def test_others_are_found_by_their_lease(place: Place) -> None:
    other = place.another("there", Listening((("10.0.0.6", 3001),), ("ab" * 32,)))
    place.beat("0000000b", other)
    assert place.addresses.find("0000000b") == Route("10.0.0.6", 3001, frozenset({"ab" * 32}))
    place.now += 7
    assert place.addresses.find("0000000b") is None, "the lease has run out"


def test_ones_own_host_is_not(place: Place) -> None:
    place.beat("0000000a", place.addresses)
    place.beat("0000000c", place.another())
    assert place.addresses.find("0000000a") is place.addresses.find("0000000c") is None


def test_two_servers_of_one_machine_find_each_other(place: Place) -> None:
    place.addresses.fact()
    place.beat("0000000b", place.another(listening=Listening((("0.0.0.0", 3002),))))
    assert place.addresses.find("0000000b") == Route("127.0.0.1", 3002)


def test_a_loopback_elsewhere_leads_nowhere(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.beat("0000000b", place.another("there"))
    for _ in range(2):
        assert place.addresses.find("0000000b") is None
        place.now += 3
    assert caplog.text.count("set WSAPP_ADVERTISE there") == 1


@pytest.mark.parametrize("fact", [None, "10.0.0.6:3001", 7])
def test_a_lease_without_an_address(place: Place, fact: object) -> None:
    place.cluster.beat("0000000b", {"users": 1, FACT: fact}, 6.0)
    assert place.addresses.find("0000000b") is None


def test_leases_are_read_seldom(place: Place) -> None:
    place.beat("0000000b", place.another("there", Listening((("10.0.0.6", 3001),))))
    for _ in range(50):
        assert place.addresses.find("0000000b") is not None
    assert place.reads == 1
    place.now += 2.1
    place.addresses.find("0000000b")
    assert place.reads == 2


def test_whoever_makes_sids_up_causes_few_readings() -> None:
    place = Place()
    place.addresses._clock = gevent.get_hub().loop.now  # the wait is real
    asking = [gevent.spawn(place.addresses.find, f"{number:08x}") for number in range(200)]
    gevent.joinall(asking, timeout=5, raise_error=True)
    assert all(one.value is None for one in asking)
    assert place.reads <= 2


def test_while_redis_is_away_the_last_that_is_known_counts(place: Place) -> None:
    place.beat("0000000b", place.another("there", Listening((("10.0.0.6", 3001),))))
    place.addresses.find("0000000b")

    def gone() -> dict[str, dict[str, object]]:
        raise BrokerUnavailable("away")

    place.cluster.workers = gone  # type: ignore[method-assign]
    place.now += 60
    assert place.addresses.find("0000000b") == Route("10.0.0.6", 3001)


def test_all_have_one_secret(place: Place) -> None:
    other = place.another()
    assert place.addresses.secret != other.secret
    place.addresses.renew()
    other.renew()
    assert place.addresses.secret == other.secret
    assert len(other.secret) == 64
