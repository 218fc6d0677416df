"""Where a partition is in a Redis or Valkey Cluster: the node that owns its hash slot, as the nodes say.

    redis+cluster://[user:password@]host[:port][,host[:port]...][/0][?option=...]

`rediss+cluster://` speaks TLS with all nodes; `valkey+cluster://` and `valkeys+cluster://` are the same two.  The hosts
are where to begin: any one of them that answers tells of the others.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import hiredis

from wsapp.backends.redis_errors import Explained, unavailable
from wsapp.backends.redis_scripts import Command
from wsapp.backends.redis_wire import FAILURES, RedisAddress, RedisWire, remaining
from wsapp.errors import SettingsError

SHAPE: Final = re.compile(r"(?:redis|valkey)(?P<tls>s?)\+cluster://(?:(?P<login>[^/?]*)@)?(?P<hosts>[^/?@]+)"
                          r"(?P<path>/[^?]*)?(?P<query>\?.*)?", re.DOTALL)
HOST: Final = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d{1,5}))?")
FRESH: Final = 0.5  # seconds for which what a node said is believed
NODE_SHARE: Final = 0.5  # of the time there is, for one node's answer

Place = tuple[str, int]  # host and port of a node


class Range(NamedTuple):
    """Slots `first` to `last` and the primary that owns them."""

    first: int
    last: int
    owner: Place


def is_cluster(url: str) -> bool:
    """Whether the URL is of a cluster."""
    return url.partition("://")[0].endswith("+cluster")


def read_cluster(url: str) -> ClusterMap:
    """The nodes to begin with.  Raises SettingsError."""
    parts = SHAPE.fullmatch(url)
    hosts = [HOST.fullmatch(host) for host in parts["hosts"].split(",")] if parts else []
    if parts is None or not all(hosts):
        raise SettingsError("the Redis URL cannot be read: write redis+cluster://host:port,host:port")
    if (parts["path"] or "/").strip("/") not in ("", "0"):
        raise SettingsError("the Redis URL names a database: a cluster has number 0 alone")
    login = f"{parts['login']}@" if parts["login"] else ""
    node = RedisAddress.parse(f"redis{parts['tls']}://{login}localhost{parts['query'] or ''}")
    return ClusterMap(node, [(host[1].strip("[]"), int(host[2] or 6379)) for host in hosts if host])


class ClusterMap:
    """Which node owns which slot; one for all partitions of a backend, safe for threads.  `node` is any of them: all
    but where it is."""

    def __init__(self, node: RedisAddress, seeds: Sequence[Place]) -> None:
        self.node, self.seeds = node, list(seeds)
        self._lock = threading.Lock()
        self._ranges: list[Range] = []
        self._asked_at = self._doubted_at = float("-inf")
        self._first: Place | None = None  # the node that answered last

    @property
    def where(self) -> str:
        """The nodes to begin with."""
        return ",".join(f"{host}:{port}" for host, port in self.seeds)

    def at(self, place: Place) -> RedisAddress:
        """The address of one node."""
        host, port = place
        return replace(self.node, options={**self.node.options, "host": host, "port": port}, where=f"{host}:{port}")

    def owner(self, slot: int, timeout: float) -> Place:
        """The primary of a slot, by what a node said within the last half second.  Those who want to know at the same
        time ask once.  Raises Explained."""
        deadline = time.monotonic() + timeout
        if not self._lock.acquire(timeout=timeout):
            raise TimeoutError
        try:
            if self._asked_at <= max(self._doubted_at, time.monotonic() - FRESH):
                self._ask_nodes(deadline)
            found = self._find(slot)
        finally:
            self._lock.release()
        if found is None:
            raise Explained(f"no node of the cluster owns the slot {slot}: see CLUSTER SLOTS")
        return found

    def doubt(self) -> None:
        """What is known is wrong: ask a node before the next answer."""
        self._doubted_at = time.monotonic()

    def learn(self, slot: int, place: Place) -> None:
        """A node said where a slot is (MOVED): that is newer than what is known."""
        with self._lock:
            self._ranges = [Range(slot, slot, place), *(one for one in self._ranges if one[:2] != (slot, slot))]
            self._asked_at = time.monotonic()

    def _find(self, slot: int) -> Place | None:
        return next((one.owner for one in self._ranges if one.first <= slot <= one.last), None)

    def _ask_nodes(self, deadline: float) -> None:
        """Ask one after the other until one answers.  Raises Explained when none does."""
        known = dict.fromkeys([*([self._first] if self._first else []), *(one.owner for one in self._ranges),
                               *self.seeds])
        problem = Explained("the cluster has no nodes")
        for place in known:
            began = time.monotonic()
            left = deadline - began
            if left <= 0:
                break
            try:
                self._ranges = _ask_slots(self.at(place), place, max(0.001, left * NODE_SHARE))
            except FAILURES as error:
                problem = Explained(f"no node of the cluster tells where its slots are;"
                                    f" {unavailable(error, self.at(place).where, left * NODE_SHARE)}")
                continue
            self._asked_at, self._first = began, place
            return
        self._first = None
        raise problem


def _ask_slots(address: RedisAddress, place: Place, timeout: float) -> list[Range]:
    """What one node says (CLUSTER SLOTS).  Raises redis-py's errors, OSError or hiredis.ReplyError."""
    deadline = time.monotonic() + timeout
    wire = RedisWire(address.connect(timeout))
    try:
        replies = wire.ask([*address.greeting, ("CLUSTER", "SLOTS")], remaining(deadline))
    finally:
        wire.close()
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            if "cluster support disabled" in str(reply):
                raise Explained(f"{address.where} is no node of a cluster: write redis://{address.where}/0")
            raise reply
    # An empty host means: the one that was asked.
    return [Range(first, last, ((owner[0] or b"").decode().strip("?") or place[0], owner[1]))
            for first, last, owner, *_ in replies[-1]]


@dataclass(frozen=True, slots=True)
class SlotAddress:
    """The primary of one partition's slot, whichever node that is.  Satisfies `redis_wire.Address`."""

    nodes: ClusterMap
    slot: int
    moves: bool = True

    @property
    def where(self) -> str:
        """Slot and nodes."""
        return f"slot {self.slot} of the cluster {self.nodes.where}"

    @property
    def database(self) -> int:
        return 0

    @property
    def greeting(self) -> tuple[Command, ...]:
        return self.nodes.node.greeting

    def connect(self, timeout: float) -> Any:
        """As `Address.connect`, to the owner of now; finding it may take half of the time."""
        deadline = time.monotonic() + timeout
        there = self.nodes.at(self.nodes.owner(self.slot, timeout / 2))
        try:
            return there.connect(remaining(deadline))
        except FAILURES as error:
            self.nodes.doubt()
            raise Explained(f"its node is {unavailable(error, there.where, timeout)}") from error

    def doubt(self) -> None:
        """What is known of the owner is wrong."""
        self.nodes.doubt()

    def moved(self, connection: Any, timeout: float) -> bool:
        """As `Address.moved`; False when no node answers."""
        with suppress(*FAILURES):
            return self.nodes.owner(self.slot, timeout) != (connection.host, connection.port)
        return False
