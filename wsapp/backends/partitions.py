"""Several partitions as one backend: rooms are divided over them, everything else is in partition 0.

Each partition is a `RedisBackend` of its own, with its clock, generation, connections and live connection.  An event
whose rooms are in several partitions is recorded in each with the rooms it has there: first in its home, the
partition of its first room, which gives it the id; then, under that id and the same idempotency key, in the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from wsapp.backends.records import check_draft
from wsapp.backends.redis_broker import RedisBackend
from wsapp.backends.redis_line import open_lines
from wsapp.backends.redis_live import read_by_thread
from wsapp.backends.redis_presence import PartitionedPresence
from wsapp.core.api_keys import ApiKeys
from wsapp.core.events import Draft, Placed, Position
from wsapp.core.partitions import SPREAD, Wave, partition_of, waves
from wsapp.core.ports import (
    Backend,
    Broker,
    Bus,
    Cluster,
    CriticalStore,
    HistoryPage,
    HistoryQuery,
    Limits,
    Presence,
    Reading,
    Receipt,
    Revocations,
    SessionStore,
)
from wsapp.errors import BrokerUnavailable

T = TypeVar("T")


class PartitionedBroker:
    """`Broker` over one broker per partition, asked at the same time.  What it raises names the partition."""

    def __init__(self, brokers: Sequence[Broker]) -> None:
        self._brokers, self._count = tuple(brokers), len(brokers)

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """As `Broker.publish`; one round trip when every event is of one partition, two for each wave else.

        An id grows in publish order over the rooms of one partition.  When a partition is away nothing is known of
        the drafts: those of the others may be recorded, and with a key they can be repeated.
        """
        for draft in drafts:
            check_draft(draft, draft.head())
        return [receipt for wave in waves(drafts, self._count) for receipt in self._publish_wave(wave)]

    def _publish_wave(self, wave: Wave) -> list[Receipt]:
        receipts = self._send([_leg(draft, places, next(iter(places)), draft.id)
                               for draft, places in zip(wave.drafts, wave.places, strict=True)])
        numbered = [(number, _leg(wave.drafts[number], places, partition, receipts[number].id))
                    for number, places in enumerate(wave.places) for partition in list(places)[1:]]
        if numbered:
            elsewhere = self._send([leg for _, leg in numbered])
            for (number, _), receipt in zip(numbered, elsewhere, strict=True):
                receipts[number] = _together(wave.drafts[number], receipts[number], receipt)
        return receipts

    def _send(self, legs: Sequence[tuple[int, Draft]]) -> list[Receipt]:
        chosen = _chosen([partition for partition, _ in legs])
        found = _ask_all({partition: partial(self._brokers[partition].publish, [legs[number][1] for number in numbers])
                          for partition, numbers in chosen.items()})
        return _in_place(chosen, found)

    def read(self, queries: Sequence[HistoryQuery]) -> list[HistoryPage]:
        """As `Broker.read`."""
        chosen = _chosen([self._of(query.room) for query in queries])
        found = _ask_all({partition: partial(self._brokers[partition].read, [queries[number] for number in numbers])
                          for partition, numbers in chosen.items()})
        return _in_place(chosen, found)

    def heads(self, rooms: Sequence[str]) -> dict[str, Position]:
        """As `Broker.heads`."""
        found = _ask_all({partition: partial(self._brokers[partition].heads, some)
                          for partition, some in self._divided(rooms).items()})
        return {room: head for heads in found.values() for room, head in heads.items()}

    def subscribe(self, rooms: Sequence[str]) -> None:
        """As `Broker.subscribe`."""
        _ask_all({partition: partial(self._brokers[partition].subscribe, some)
                  for partition, some in self._divided(rooms).items()})

    def unsubscribe(self, rooms: Sequence[str]) -> None:
        """As `Broker.unsubscribe`."""
        for partition, some in self._divided(rooms).items():
            self._brokers[partition].unsubscribe(some)

    def _of(self, room: str) -> int:
        return partition_of(room, self._count)

    def _divided(self, rooms: Sequence[str]) -> dict[int, list[str]]:
        return {partition: [rooms[number] for number in numbers]
                for partition, numbers in _chosen([self._of(room) for room in rooms]).items()}


def _leg(draft: Draft, places: Mapping[int, Sequence[str]], partition: int, id: str) -> tuple[int, Draft]:
    """The part of a draft that is recorded in a partition."""
    if len(places) == 1:
        return partition, draft
    return partition, replace(draft, rooms=tuple(places[partition]), flags=draft.flags + SPREAD, id=id)


def _together(draft: Draft, home: Receipt, other: Receipt) -> Receipt:
    """One receipt with the places in the draft's order; a duplicate when every part is one."""
    places: dict[str, Placed] = {place.room: place for place in (*home.places, *other.places)}
    in_order = tuple(places[room] for room in dict.fromkeys(draft.rooms) if room in places)
    return replace(home, places=in_order, duplicate=home.duplicate and other.duplicate)


def _chosen(partitions: Sequence[int]) -> dict[int, list[int]]:
    """Which places of a sequence belong to each partition."""
    chosen: dict[int, list[int]] = {}
    for number, partition in enumerate(partitions):
        chosen.setdefault(partition, []).append(number)
    return chosen


def _in_place(chosen: Mapping[int, Sequence[int]], found: Mapping[int, Sequence[T]]) -> list[T]:
    """The answers of the partitions in the order of the questions."""
    pairs = [pair for partition, numbers in chosen.items() for pair in zip(numbers, found[partition], strict=True)]
    return [answer for _, answer in sorted(pairs, key=_number)]


def _number(pair: tuple[int, object]) -> int:
    return pair[0]


def _ask_all(questions: Mapping[int, Callable[[], T]]) -> dict[int, T]:
    """Ask all partitions at the same time: on threads, which are greenlets in a patched worker.  Raises what one of
    them raised, with the partition; all of them have ended then."""
    answers: dict[int, T] = {}
    errors: list[Exception] = []

    def ask(partition: int, question: Callable[[], T]) -> None:
        try:
            answers[partition] = question()
        except Exception as error:
            if isinstance(error, BrokerUnavailable):
                error.partition = partition
            errors.append(error)

    *others, last = [partial(ask, *each) for each in questions.items()] or [partial(answers.clear)]
    threads = [threading.Thread(target=each, daemon=True) for each in others]
    for thread in threads:
        thread.start()
    last()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return answers


class PartitionedBackend:
    """`Backend` over several partitions, all on one server or each at the cluster's node that owns its slot."""

    shared = True

    def __init__(self, url: str, limits: Limits, *, channel: str, prefix: str = "wsapp:", timeout: float = 0.25,
                 partitions: int = 2, reading: Reading = read_by_thread) -> None:
        self._redis = [RedisBackend(url, limits, channel=channel, prefix=prefix, timeout=timeout, line=line,
                                    reading=reading)
                       for line in open_lines(url, prefix, partitions)]
        first = self._redis[0]
        self.parts: Sequence[Backend] = tuple(self._redis)
        self.broker: Broker = PartitionedBroker([part.broker for part in self._redis])
        self.sessions: SessionStore = first.sessions
        self.critical: CriticalStore = first.critical
        self.cluster: Cluster = first.cluster
        self.revocations: Revocations = first.revocations
        self.bus: Bus = first.bus
        self.api_keys: ApiKeys = first.api_keys
        self.presence: Presence = PartitionedPresence(
            first.pool, lambda room: self._redis[partition_of(room, partitions)].pool)

    def start(self, boot: str, on_record: Callable[[str, bytes], None], on_gap: Callable[[], None],
              on_bus: Callable[[bytes], None], on_control: Callable[[bytes], None]) -> None:
        """As `Backend.start`.  Records are in publish order per partition."""
        lock = threading.RLock()  # the partitions' live connections read at the same time

        def one_by_one(room: str, record: bytes) -> None:
            with lock:
                on_record(room, record)

        for part in self._redis:
            part.start(boot, one_by_one, on_gap, on_bus, on_control)

    def hasty(self, timeout: float) -> Broker:
        """As `Backend.hasty`."""
        return PartitionedBroker([part.hasty(timeout) for part in self._redis])

    @property
    def deaf(self) -> str | None:
        """As `Backend.deaf`: one partition is enough."""
        return next((f"partition {number}: {part.deaf}" for number, part in enumerate(self._redis) if part.deaf), None)

    def reconnect(self) -> None:
        """As `Backend.reconnect`, of every partition."""
        for part in self._redis:
            part.reconnect()

    def ping(self) -> float:
        """As `Backend.ping`: every partition answers, the slowest one's time."""
        begun = time.monotonic()
        _ask_all({number: part.ping for number, part in enumerate(self._redis)})
        return time.monotonic() - begun

    def close(self) -> None:
        """As `Backend.close`."""
        for part in self._redis:
            part.close()
