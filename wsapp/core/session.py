"""A session and its subscriptions: what survives a reconnect, and how far each watcher has come."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from wsapp.core.backlog import EMPTY, SHED_ITEMS, Backlog, Following, Shed, Waiting
from wsapp.core.events import MAX_PRIORITY, Placed, Position, Profile, Publication
from wsapp.core.room_log import LogEntry
from wsapp.core.throttle import Reader

if TYPE_CHECKING:
    from wsapp.core.registry import Room
    from wsapp.core.throttle import UserQueue


PROFILES: Final = len(Profile)
MUCH: Final = 256  # unconfirmed events in one room
MAX_METADATA: Final = 16_384  # bytes of JSON of all that a client has merged
NONE: Final[frozenset[int]] = frozenset()
NOT_YET: Final = 1 << 62  # a number that no room reaches


class State(IntEnum):
    """A subscription holds live publications back while it recovers, and passes them on once live."""

    RECOVERING = 0
    LIVE = 1
    LEFT = 2


class Peer(Reader, Protocol):
    """The transport's end of a connection, as the inside sees it."""

    sid: str
    direct: Any  # the transport's outbox where a fan-out may write to it without `push`, else None

    def push(self, frame: Any) -> None:
        """Send one shared frame; never blocks, never raises."""

    def backlog(self) -> int:
        """Bytes that wait for the client to read."""

    def close(self, code: int, reason: str) -> None:
        """Tell the client why and end the connection."""


class Subscription:
    """A session in a room: a cursor in its log.

    Everything up to `sent` was sent, or is in the `backlog` that the member is `behind` with; `ahead` are the numbers
    after it that were sent before their turn.  `began` is where the session began to get what the room brings,
    `pinged` what was sent before the last PING, `confirmed` what the last PONG proved to have arrived (G5).
    """

    __slots__ = ("ahead", "backlog", "began", "behind", "box", "confirmed", "count", "pinged", "queue", "room", "send",
                 "sent", "session", "state", "variant")

    def __init__(self, session: Session, room: Room) -> None:
        self.session, self.room = session, room
        self.state = State.RECOVERING
        self.sent = self.pinged = self.confirmed = self.count = 0
        self.began = NOT_YET
        self.behind = False
        self.backlog = EMPTY
        self.ahead: set[int] | None = None
        # What a fan-out needs of a member lies in one object: memory, not arithmetic, is what it waits for.
        self.queue = session.queue
        self.route(session.peer.direct)

    def route(self, box: Any) -> None:
        """Take over from the connection's outbox what a fan-out needs of it: `send` while it may write directly, and
        which of the shared encodings is the client's, compressed or not."""
        self.box: Any = box
        self.send: Callable[[bytes], int] | None = None if box is None else box.send
        self.variant = self.session.profile + PROFILES * (box is not None and box.squeezed)

    def go_live(self, seq: int) -> None:
        """Everything up to `seq` is dealt with; what follows comes live."""
        self.sent = seq
        self.state = State.LIVE
        self.room.changed()

    def position(self) -> int:
        """The newest seq up to which nothing waits any more."""
        low = self.backlog.low
        return min(self.sent, low - 1) if low else self.sent

    def passed(self) -> int:
        """The newest seq up to which everything has been passed to the connection; what is still to be replayed has
        not."""
        return self.position() if self.state is State.LIVE else self.confirmed

    def started(self, seq: int) -> None:
        """All marks at the point where this connection began to watch."""
        self.sent = self.pinged = self.confirmed = self.began = seq

    # -- a source of the throttle

    def gather(self, max_items: int, max_bytes: int) -> Following:
        """As `wsapp.core.throttle.Source.gather`: what the log has for this member, shared with those at its place."""
        log, to, since = self.room.log, self.room.ready, self.sent
        if since >= to:
            return Following(self.backlog)
        lost: tuple[Shed, ...] = ()
        if since + 1 < log.first:
            count = log.first - 1 - since
            lost = (Shed(self.room.name, since + 1, log.first - 1, count, SHED_ITEMS, MAX_PRIORITY),)
            since = log.first - 1
        left_out = self._left_out(since, to) if self.ahead or log.next_special(since) else NONE
        place = self.backlog if self.backlog else log.start(since)
        key = (since, to, left_out)
        found = place.remembered(key)
        if found is None:
            new = [_waiting(entry, self.room.name) for entry in log.after(since, to) if entry.seq not in left_out]
            found = place.following(new, max_items, max_bytes, key)
        self.backlog, self.sent = found.backlog, to
        return found._replace(sheds=lost + found.sheds) if lost else found

    def _left_out(self, since: int, to: int) -> frozenset[int]:
        """What this member has, or gets through another room."""
        name, session, ahead = self.room.name, self.session, self.ahead or NONE
        self.ahead = {seq for seq in ahead if seq > to} or None
        return frozenset(entry.seq for entry in self.room.log.after(since, to)
                         if entry.seq in ahead or session in entry.had
                         or session.gets_through_another(entry.publication, name))

    def owe(self, waiting: Waiting, place: Placed) -> None:
        """Let an event wait that was to come through another room, which the session leaves."""
        moved = Waiting(waiting.event, waiting.priority, waiting.lane, waiting.entity, place.room, place.seq,
                        waiting.id, waiting.item, waiting.size, waiting.since)
        self.backlog = Backlog(tuple(sorted((*self.backlog.waits, moved), key=_by_seq)))
        self.behind = True

    def caught_up(self) -> bool:
        """As `wsapp.core.throttle.Source.caught_up`."""
        self.behind = self.sent < self.room.ready
        return not self.behind

    def drop(self) -> int:
        """Forget what waits; how many events that were, merged ones counted."""
        dropped = sum(1 + waiting.merged for waiting in self.backlog.waits)
        dropped += max(0, self.room.log.head - self.sent)
        self.backlog, self.behind, self.ahead = EMPTY, False, None
        return dropped


def _by_seq(waiting: Waiting) -> int:
    return waiting.seq


def _waiting(entry: LogEntry, room: str) -> Waiting:
    publication = entry.publication
    return Waiting(publication.event, publication.priority, publication.lane, publication.entity, room, entry.seq,
                   publication.id, publication, len(publication.body), entry.at)


class Session:
    """One watcher, from CONNECT until its state lapses.  Owned by one connection at a time (`owner`)."""

    __slots__ = ("_looked", "connected_at", "dirty", "host_state", "id", "last_seen", "metadata", "metadata_size",
                 "owner", "peer", "profile", "queue", "received", "sent", "sid", "subs", "unreported", "user_id",
                 "watching")

    def __init__(self, id: str, sid: str, user_id: str, owner: str, profile: Profile, peer: Peer, queue: UserQueue,
                 now: float, metadata: dict[str, object] | None = None) -> None:
        self.id, self.sid, self.user_id, self.owner = id, sid, user_id, owner
        self.profile, self.peer, self.queue = profile, peer, queue
        self.connected_at = self.last_seen = now
        self.metadata: dict[str, object] = metadata or {}
        self.metadata_size = MAX_METADATA if metadata else 0  # bytes of JSON, at most
        self.subs: dict[str, Subscription] = {}
        self.received = self.sent = self._looked = 0
        self.dirty = False
        self.unreported: list[Shed] | None = None  # shed, but not reported yet: the client does not read
        self.watching: frozenset[str] = frozenset()  # rooms whose presence it asked for
        self.host_state: frozenset[str] = frozenset()  # what of the host application's would be lost with it

    def __repr__(self) -> str:
        return f"<Session {self.sid} of {self.user_id} in {sorted(self.subs)}>"

    def has_host_state(self, kind: str, there: bool) -> bool:
        """The host application has put it into rooms of its own (`rooms`) or data into its socket session (`session`),
        or, not `there`, no longer.  Whether it is to be saved."""
        kept = self.host_state | {kind} if there else self.host_state - {kind}
        changed = kept != self.host_state and bool(self.subs)
        self.host_state, self.dirty = kept, self.dirty or changed
        return changed

    def gets_through_another(self, publication: Publication, name: str) -> bool:
        """Whether a room that stands before `name` in the record brings a publication to this session: it is in that
        room since before it."""
        for place in publication.places:
            if place.room == name:
                return False
            sub = self.subs.get(place.room)
            if sub is not None and place.seq > sub.began and place.epoch == sub.room.track.epoch:
                return True
        return False

    def rerouted(self, box: Any) -> None:
        """The peer's `direct` has changed, or whether it may be written to."""
        for sub in self.subs.values():
            sub.route(box)

    def messages_sent(self) -> int:
        """Frames passed on to the client since it connected."""
        return self.sent + sum(sub.count for sub in self.subs.values())

    def pinging(self) -> None:
        """Remember what was sent before the PING that goes out now.  A recovery may still be on its way."""
        for sub in self.subs.values():
            if sub.state is State.LIVE:
                sub.pinged = sub.position()

    def ponged(self, now: float) -> None:
        """The PONG proves that all sent before its PING has arrived (TCP and the Engine.IO transport keep order)."""
        self.last_seen = now
        for sub in self.subs.values():
            if sub.confirmed != sub.pinged:
                sub.confirmed = sub.pinged
                self.dirty = True

    def wants_proof(self) -> bool:
        """Whether a PING is worth it before its time: something sent is unconfirmed, and either nothing more was sent
        since the last look, or so much that a resume from here would replay a lot."""
        sent = unproven = 0
        for sub in self.subs.values():
            sent += sub.sent
            if sub.sent - sub.confirmed > unproven:
                unproven = sub.sent - sub.confirmed
        looked, self._looked = self._looked, sent
        return unproven > 0 and (looked == sent or unproven >= MUCH)

    def positions(self) -> dict[str, Position]:
        """The confirmed positions, which a successor starts from."""
        return {name: Position(sub.room.track.epoch, sub.confirmed) for name, sub in self.subs.items()}
