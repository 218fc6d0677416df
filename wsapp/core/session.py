"""A session and its subscriptions: what survives a reconnect, and how far each watcher has come."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from wsapp.core.events import Position, Profile, Publication

if TYPE_CHECKING:
    from wsapp.core.lanes import Shed
    from wsapp.core.registry import Room
    from wsapp.core.throttle import UserQueue


PROFILES: Final = len(Profile)
MUCH: Final = 256  # unconfirmed events in one room


class State(IntEnum):
    """A subscription holds live publications back while it recovers, and passes them on once live."""

    RECOVERING = 0
    LIVE = 1
    LEFT = 2


class Peer(Protocol):
    """The transport's end of a connection, as the inside sees it."""

    sid: str
    direct: Any  # the transport's outbox where a fan-out may write to it without `push`, else None

    def push(self, frame: Any) -> None:
        """Send one shared frame; never blocks, never raises."""

    def backlog(self) -> int:
        """Bytes that wait for the client to read."""

    def close(self, code: int, reason: str) -> None:
        """Tell the client why and end the connection."""


class Holder(Protocol):
    """Keeps the live publications of a room for a subscription that is not live yet."""

    def hold(self, publication: Publication, seq: int) -> Any: ...


class Tail:
    """What came live between the end of a recovery, which stands in `epoch`, and its delivery."""

    __slots__ = ("epoch", "held")

    def __init__(self, epoch: str = "") -> None:
        self.epoch = epoch
        self.held: list[tuple[Publication, int]] = []

    def hold(self, publication: Publication, seq: int) -> None:
        self.held.append((publication, seq))

    def covers(self, publication: Publication, room: str) -> bool:
        """Whether it belongs to the history that the recovery has read, or to the first one there is."""
        return not self.epoch or any(place.room == room and place.epoch == self.epoch for place in publication.places)

    def restart(self, epoch: str) -> None:
        """The room goes on in another history: what is held is of the past."""
        self.epoch = epoch
        self.held.clear()


class Subscription:
    """A session in a room.  `sent` is the newest seq passed on, `pinged` what was sent before the last PING,
    `confirmed` what the last PONG proved to have arrived (G5)."""

    __slots__ = ("box", "confirmed", "count", "join", "pinged", "queue", "room", "send", "sent", "session", "state",
                 "variant")

    def __init__(self, session: Session, room: Room) -> None:
        self.session, self.room = session, room
        self.state = State.RECOVERING
        self.sent = self.pinged = self.confirmed = self.count = 0
        # What a fan-out needs of a member lies in one object: memory, not arithmetic, is what it waits for.
        self.queue = session.queue
        self.route(session.peer.direct)
        self.join: Holder | None = None

    def route(self, box: Any) -> None:
        """Take over from the connection's outbox what a fan-out needs of it: `send` while it may write directly, and
        which of the shared encodings is the client's, compressed or not."""
        self.box: Any = box
        self.send: Callable[[bytes], int] | None = None if box is None else box.send
        self.variant = self.session.profile + PROFILES * (box is not None and box.squeezed)

    def go_live(self, seq: int) -> None:
        """Everything up to `seq` is dealt with; what follows comes live."""
        self.sent = seq
        self.join = None
        self.state = State.LIVE
        self.room.changed()

    def position(self) -> int:
        """The newest seq up to which nothing waits in a lane any more."""
        lanes = self.session.lanes()
        low = lanes.low_water(self.room.name) if lanes is not None else None
        return self.sent if low is None else min(self.sent, low - 1)

    def passed(self) -> int:
        """The newest seq up to which everything has been passed to the connection; what is still to be replayed has
        not."""
        return self.position() if self.state is State.LIVE else self.confirmed

    def started(self, seq: int) -> None:
        """All three marks at the point where this connection began to watch."""
        self.sent = self.pinged = self.confirmed = seq


class Session:
    """One watcher, from CONNECT until its state lapses.  Owned by one connection at a time (`owner`)."""

    __slots__ = ("_looked", "connected_at", "dirty", "host_state", "id", "last_seen", "metadata", "owner", "peer",
                 "profile", "queue", "received", "sent", "sid", "subs", "untold", "user_id", "watching")

    def __init__(self, id: str, sid: str, user_id: str, owner: str, profile: Profile, peer: Peer, queue: UserQueue,
                 now: float, metadata: dict[str, object] | None = None) -> None:
        self.id, self.sid, self.user_id, self.owner = id, sid, user_id, owner
        self.profile, self.peer, self.queue = profile, peer, queue
        self.connected_at = self.last_seen = now
        self.metadata: dict[str, object] = metadata or {}
        self.subs: dict[str, Subscription] = {}
        self.received = self.sent = self._looked = 0
        self.dirty = False
        self.untold: list[Shed] | None = None  # shed, but not yet told: the client does not read
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

    def lanes(self) -> Any:
        """What waits for this session, or None when nothing ever did."""
        return self.queue.lanes.get(self.sid)

    def drop_waiting(self, room: str) -> int:
        """Forget what waits of a room in the lanes; how many events that were, merged ones counted."""
        lanes = self.lanes()
        dropped = lanes.drop(room) if lanes is not None else []
        if dropped and not lanes.depth:
            del self.queue.lanes[self.sid]
        return sum(1 + waiting.merged for waiting in dropped)

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
