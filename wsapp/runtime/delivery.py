"""From the broker's records to rooms that are followed without a hole.

    record -> the room's track (duplicate? hole? new epoch?) -> `Fanout` -> sockets

A hole is read from the history and filled in order before anything goes on; clients never notice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import gevent

from wsapp.core.catch_up import Pace
from wsapp.core.events import Position, Publication, packet, parse_record
from wsapp.core.history import Join, More, Reason, Recovered, Refused, Verdict
from wsapp.core.ports import Broker, HistoryPage
from wsapp.core.registry import Registry, Room
from wsapp.core.session import State
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics
from wsapp.runtime.fanout import Fanout
from wsapp.runtime.link import Links
from wsapp.runtime.reading import SharedReads
from wsapp.transport.frames import Frame

log = logging.getLogger(__name__)

PAGE: Final = 1000  # publications of one history read
HEAL_PAUSE: Final = 0.5  # seconds between attempts to read history while the broker is away
REACH: Final = 2.0  # seconds in which a room that begins anew has been read
LOOK: Final = 0.005
PRECEDENCE: Final = 1.0  # seconds for which a room that was healed waits for another one
SOON: Final = 0.001


class Delivery:
    """What one worker follows."""

    def __init__(self, registry: Registry, fanout: Fanout, broker: Broker, metrics: Metrics, links: Links, *,
                 max_replay: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry, self.fanout, self.broker, self.metrics = registry, fanout, broker, metrics
        self._links = links
        self.max_replay, self._clock = max_replay, clock
        self.pace = Pace()
        self._heals = 0  # rooms that are being healed now
        self.reads = SharedReads(broker, self._stands, clock)

    def _stands(self, name: str) -> Position | None:
        room = self.registry.rooms.get(name)
        return room.track.position if room is not None and room.open and room.join is None else None

    # -- from the broker

    def on_record(self, name: str, record: bytes) -> None:
        """A live record of a room, in order."""
        room = self.registry.rooms.get(name)
        if room is None:
            return
        publication = parse_record(record)
        for place in publication.places:
            if place.room == name:
                self._offer(room, publication, place.seq, place.epoch)
                return

    def on_gap(self) -> None:
        """Live records may have been lost: every room reads on from where it stands."""
        self.reads.forget()
        for room in list(self.registry.rooms.values()):
            self._read_on(room)

    def _read_on(self, room: Room) -> None:
        """Records of the room were not taken: they are read from the history."""
        if room.join is not None:
            room.gap = True  # the page it waits for may be older than the gap
        elif room.open:
            self._heal(room)

    def verify(self, room: Room, head: Position) -> None:
        """The broker says that the room's head is `head`: read on unless the worker has come that far."""
        if room.open and room.join is None and behind(room.track.position, head):
            if not room.track.epoch:  # its very first publication was lost
                room.track.reset(Position(head.epoch, 0))
            self._heal(room)

    def reach(self, room: Room, position: Position) -> None:
        """A recovery has read a history that the worker may not know of yet: let the room begin it anew first.  Waits
        at most `REACH` seconds."""
        deadline = self._clock() + REACH
        while room.track.epoch != position.epoch and room.open and room.members and self._clock() < deadline:
            self.verify(room, position)
            gevent.sleep(LOOK)

    def _offer(self, room: Room, publication: Publication, seq: int, epoch: str) -> None:
        if room.join is not None:
            room.join.hold(publication, seq)
            return
        if not room.open:
            return
        if not room.track.epoch:  # nothing had ever been published here
            room.track.reset(Position(epoch, 0))
        if self._heals and self._home_is_behind(room, publication):
            self._heal(room)  # it waits, and what follows it, until the room it comes through has caught up
            if room.join is not None:
                room.join.hold(publication, seq)
            return
        verdict = room.track.offer(seq, epoch)
        if verdict is Verdict.DELIVER:
            self.fanout.pass_on(room, publication, seq)
        elif verdict is not Verdict.DUPLICATE:
            self._heal(room)
            if room.join is not None:
                room.join.hold(publication, seq)

    # -- healing

    def _heal(self, room: Room) -> None:
        """Read what is missing after the worker's position and go on in order; clients never notice."""
        self._heal_from(room, room.track.position)

    def _heal_from(self, room: Room, position: Position) -> None:
        room.join = Join(room.name, position, max_replay=self.max_replay)
        self._heals += 1
        gevent.spawn(self._healing, room, room.join)

    def _healing(self, room: Room, join: Join) -> None:
        try:
            self._heal_with(room, self._read_until_done(room, join))
        except Exception:
            # The next record shows the hole again, and it is tried again.
            log.exception("%s could not be healed now", room.name)
            room.join = None
        finally:
            self._heals -= 1
        if room.gap and room.join is None:
            room.gap = False
            self._heal(room)

    def _heal_with(self, room: Room, step: Recovered | Refused | None) -> None:
        if isinstance(step, Refused):
            self._healing_failed(room, step)
            return
        room.join = None
        if step is not None and self._heals > 1 and any(self._home_is_behind(room, one) for one in step.publications):
            self._pass_on_in_turn(room, step)
        elif step is not None:
            room.track.reset(step.position)
            self.metrics.healed += len(step.publications)
            for publication in step.publications:
                self.fanout.pass_on(room, publication, publication.seq(room.name))

    def _pass_on_in_turn(self, room: Room, healed: Recovered) -> None:
        """Some of it reaches clients of this room through another one that is being healed as well: what follows keeps
        its place behind it.  The oldest of all is never held up, so that rooms do not wait for each other."""
        room.join = meanwhile = Join(room.name, healed.position, max_replay=self.max_replay)
        deadline = self._clock() + PRECEDENCE
        for publication in healed.publications:
            while self._home_is_behind(room, publication) and self._clock() < deadline:
                gevent.sleep(SOON)
            seq = publication.seq(room.name)
            room.track.reset(Position(healed.position.epoch, seq))
            self.metrics.healed += 1
            self.fanout.pass_on(room, publication, seq)
        room.join = None
        if meanwhile.holds:
            self._heal(room)

    def _home_is_behind(self, room: Room, publication: Publication) -> bool:
        """Whether a client here gets it through another room, which has not come that far."""
        for place in publication.places:
            if place.room == room.name:
                return False
            home = self.registry.rooms.get(place.room)
            if (home is not None and home.open and home.join is not None and home.track.epoch == place.epoch
                    and home.track.seq < place.seq and not home.members.keys().isdisjoint(room.members)):
                return True
        return False

    def _read_until_done(self, room: Room, join: Join) -> Recovered | Refused | None:
        """None when nobody is left to heal for."""
        while room.members:
            try:
                step = join.page(self.broker.read([join.query(PAGE)])[0])
            except BrokerUnavailable as error:
                log.warning("%s waits for its history: %s", room.name, error)
                self._links.rest_after(error, HEAL_PAUSE)
                continue
            if not isinstance(step, More):
                return step
        return None

    def _healing_failed(self, room: Room, refused: Refused) -> None:
        if refused.reason is Reason.EPOCH:
            log.warning("%s: its history began again (epoch); how much was published in between is unknown", room.name)
            # All of the new history is news to everybody here: it follows the resync from its beginning.
            start = Position(refused.position.epoch, 0)
            room.track.reset(start)
            self._resync(room, start, refused)
            self._heal_from(room, start)
            return
        log.warning("%s cannot be healed: %s, %d missed", room.name, refused.reason, refused.missed)
        room.join = None
        room.track.reset(refused.position)
        self._resync(room, refused.position, refused)

    def _resync(self, room: Room, position: Position, refused: Refused) -> None:
        """Report to every member that its view of the room has a hole that cannot be filled, and where it continues.
        One that still recovers learns it from its own recovery."""
        self.fanout.finish(room)
        frame = _resync_frame(room, position, refused)
        for sub in room.members.values():
            if sub.state is not State.LIVE:
                continue
            lost = sub.drop()
            self.fanout.throttler.drop(sub.session.user_id, sub.session.sid, room.name)
            sub.started(position.seq)
            sub.session.dirty = True
            self.fanout.moved(sub.session, room.name, _resync_frame(room, position, refused, lost) if lost else frame)
        self.fanout.began_again(room, position.seq)

    # -- opening rooms

    def open_rooms(self, rooms: Sequence[Room]) -> None:
        """Make the worker follow rooms: subscribe first, then read where they stand.  Returns when all are open, one
        round trip each for all of them.  Raises BrokerUnavailable."""
        fresh = [room for room in rooms if not room.open and room.join is None]
        if fresh:
            self._open(fresh)
        deadline = self._clock() + 1.0
        for room in rooms:
            while not room.open and room.join is not None and self._clock() < deadline:
                gevent.sleep(0.001)
            if not room.open:
                raise BrokerUnavailable(f"{room.name} could not be opened: Redis did not answer; try again")

    def _open(self, rooms: list[Room]) -> None:
        joins = {}
        for room in rooms:
            room.join = joins[room.name] = Join(room.name, None)
        try:
            self.broker.subscribe([room.name for room in rooms])
            left = list(rooms)
            while left:
                pages = self.broker.read([joins[room.name].query(PAGE) for room in left])
                left = [room for room, page in zip(left, pages, strict=True) if not self._opened(room, joins, page)]
        finally:
            for room in rooms:
                if room.join is joins[room.name]:
                    room.join = None

    def _opened(self, room: Room, joins: dict[str, Join], page: HistoryPage) -> bool:
        step = joins[room.name].page(page)
        if isinstance(step, More):
            return False
        room.join = None
        room.track.reset(step.position)
        self.fanout.began_again(room, step.position.seq)
        room.open = True
        if room.gap:
            room.gap = False
            self._heal(room)
        return True

    def close_vacant(self) -> None:
        """Stop following rooms in which nobody is any more."""
        self.reads.prune()
        vacant = [room for room in self.registry.vacant() if room.join is None]
        for room in vacant:
            self.registry.forget(room)
        opened = [room.name for room in vacant if room.open]
        if opened:
            self.broker.unsubscribe(opened)


def _resync_frame(room: Room, position: Position, refused: Refused, lost: int = 0) -> Frame:
    """`lost` waited in the client's lanes and went with the old history."""
    return Frame(packet("resync", {"room": room.name, "epoch": position.epoch, "seq": position.seq,
                                   "reason": str(refused.reason), "missed": refused.missed + lost}))


def behind(position: Position, head: Position) -> bool:
    """Whether `head` is news to somebody who stands at `position`."""
    return position.epoch != head.epoch or position.seq < head.seq
