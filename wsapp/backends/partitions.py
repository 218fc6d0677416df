"""Several partitions as one backend: rooms are divided over them, everything else is in partition 0.

Each partition is a `RedisBackend` of its own, with its generation, connections and live connection.  An event whose
rooms are in several partitions is recorded in each, with the rooms it has there and under the same id.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from wsapp.backends.records import check_draft
from wsapp.backends.redis_broker import RedisBackend
from wsapp.backends.redis_line import open_lines
from wsapp.backends.redis_live import read_by_thread
from wsapp.backends.redis_presence import RedisPresence
from wsapp.core.api_keys import ApiKeys
from wsapp.core.events import Draft, Position
from wsapp.core.partitions import SPREAD, partition_of, spread
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

MOST_PARTLY: Final = 10_000  # receipts kept of calls that failed in some partition


class PartitionedBroker:
    """`Broker` over one broker per partition, asked at the same time.  What it raises names the partition."""

    def __init__(self, brokers: Sequence[Broker]) -> None:
        self._brokers, self._count = tuple(brokers), len(brokers)
        self._partly: OrderedDict[tuple[str, int], Receipt] = OrderedDict()

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """As `Broker.publish`; one round trip, two more for each event with a key and rooms in several partitions.

        When a partition is away nothing is known of what was sent there.  What the others recorded is remembered: a
        retry by this broker publishes only what is missing.
        """
        for draft in drafts:
            check_draft(draft, draft.head())
        receipts: list[Receipt] = []
        together: list[Draft] = []
        for draft in drafts:
            if draft.key and len(spread(draft.rooms, self._count)) > 1:
                receipts += self._publish_together(together)
                receipts.append(self._publish_keyed(draft))
                together = []
            else:
                together.append(draft)
        return receipts + self._publish_together(together)

    def _publish_together(self, drafts: Sequence[Draft]) -> list[Receipt]:
        found = self._send([self._parts(draft) for draft in drafts])
        return [_joined(draft, receipts) for draft, receipts in zip(drafts, found, strict=True)]

    def _publish_keyed(self, draft: Draft) -> Receipt:
        """The home first: it knows under which id an event with this key was published before."""
        home, *others = self._parts(draft).items()
        (found,) = self._send([dict([home])])
        id = found[home[0]].id
        (rest,) = self._send([{partition: replace(part, id=id) for partition, part in others}])
        return _joined(draft, found | rest)

    def _parts(self, draft: Draft) -> dict[int, Draft]:
        """What each partition records of a draft; the first one is its home."""
        rooms = spread(draft.rooms, self._count)
        if len(rooms) == 1:
            return dict.fromkeys(rooms, draft)
        return {partition: replace(draft, rooms=tuple(some), flags=draft.flags + SPREAD)
                for partition, some in rooms.items()}

    def _send(self, drafts: Sequence[Mapping[int, Draft]]) -> list[dict[int, Receipt]]:
        """Publish the parts of drafts in all partitions at the same time, in each one in the order of the drafts."""
        receipts: list[dict[int, Receipt]] = [{} for _ in drafts]
        sent: dict[int, list[tuple[int, Draft]]] = {}
        for number, parts in enumerate(drafts):
            for partition, part in parts.items():
                known = self._partly.get((part.id, partition)) if part.retry else None
                if known is not None:
                    receipts[number][partition] = known
                else:
                    sent.setdefault(partition, []).append((number, part))
        answers, errors = _answers({partition: partial(self._brokers[partition].publish, [part for _, part in some])
                                    for partition, some in sent.items()})
        for partition, found in answers.items():
            for (number, part), receipt in zip(sent[partition], found, strict=True):
                receipts[number][partition] = receipt
                if errors:
                    self._partly[part.id, partition] = receipt
        while len(self._partly) > MOST_PARTLY:
            self._partly.popitem(last=False)
        if errors:
            raise errors[0]
        return receipts

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


def _joined(draft: Draft, receipts: Mapping[int, Receipt]) -> Receipt:
    """One receipt with the places in the draft's order; a duplicate when every part is one."""
    if len(receipts) == 1:
        return next(iter(receipts.values()))
    parts = list(receipts.values())
    places = {place.room: place for part in parts for place in part.places}
    in_order = tuple(places[room] for room in dict.fromkeys(draft.rooms) if room in places)
    return replace(parts[0], places=in_order, duplicate=all(part.duplicate for part in parts))


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
    """Ask all partitions at the same time.  Raises what one of them raised, with the partition."""
    answers, errors = _answers(questions)
    if errors:
        raise errors[0]
    return answers


def _answers(questions: Mapping[int, Callable[[], T]]) -> tuple[dict[int, T], list[Exception]]:
    """What the partitions answer and raise, questioned at the same time: on threads, which are greenlets in a patched
    worker."""
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
    return answers, errors


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
        self.presence: Presence = RedisPresence([part.pool for part in self._redis])

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
