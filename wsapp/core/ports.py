"""What the inside asks of the outside.  Each interface has a memory twin and a Redis twin, held to one contract test.

All calls block the calling greenlet or thread for at most the broker's timeout (G7) and raise `BrokerUnavailable`
past it; none is retried inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from wsapp.core.api_keys import ApiKeys
from wsapp.core.events import Draft, Placed, Position, Publication


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a publish.  `status` is `accepted` (Redis has it), `queued` (waits in the outbox) or
    `local_only` (served on this worker, recorded nowhere).  `duplicate`: the event, or one with its key, had been
    published before, and the id and places are those of the first time."""

    id: str
    places: tuple[Placed, ...]
    status: str = "accepted"
    duplicate: bool = False

    @property
    def positions(self) -> dict[str, Position]:
        """Where the event stands, by room."""
        return {place.room: Position(place.epoch, place.seq) for place in self.places}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept and for how long.  `history_*` bound each room (items, bytes of records, seconds per
    entry, whichever is reached first); the `*_ttl` are seconds since the last write: of a session, of an
    idempotency key, and of a room's epoch and seq, which outlive its history; and since a critical event was first
    kept.  `critical_items` may wait for one user's acknowledgement, `dead_letters` for the operator, at most
    `dead_ttl` seconds."""

    history_size: int = 10_000
    history_bytes: int = 4 * 1024 * 1024
    history_age: float = 900.0
    session_ttl: float = 600.0
    result_ttl: float = 300.0
    meta_ttl: float = 86_400.0
    critical_ttl: float = 86_400.0
    critical_items: int = 1000
    dead_letters: int = 10_000
    dead_ttl: float = 604_800.0


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Publications of `room` after `since` (before it when `backwards`), at most `limit`.

    `since=None` means from the oldest kept forwards, or from the newest backwards.
    """

    room: str
    since: int | None = None
    limit: int = 1000
    backwards: bool = False


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """One page: `head` is the newest position of the room, `first` the oldest seq still kept (head.seq + 1 when
    none is).  Forwards in ascending, backwards in descending seq.

    A room in which nothing was published since its server began (or for `meta_ttl`) has no epoch yet: its head is
    `Position("", 0)` and its first publication has seq 1 of an epoch that is made then.  Reading writes nothing.
    """

    room: str
    head: Position
    first: int
    publications: tuple[Publication, ...]


class Broker(Protocol):
    """History and live channels of rooms."""

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """Number, record, trim and fan out each draft, in one round trip for all of them, atomically for each one.

        The event's id is that of the draft; seq is contiguous from 1 per room and epoch.  A draft that is a `retry`
        is not recorded again when its history still has it, nor one with a key that was published in the last
        `result_ttl` seconds: the receipt is that of the first time, and `duplicate`.
        """
        ...

    def read(self, queries: Sequence[HistoryQuery]) -> list[HistoryPage]:
        """Read several histories in one round trip, each one atomically with its head."""
        ...

    def heads(self, rooms: Sequence[str]) -> dict[str, Position]:
        """The newest position of each room, as `read` would tell it, in one round trip and without any publication."""
        ...

    def subscribe(self, rooms: Sequence[str]) -> None:
        """Ask for the live records of rooms; returns when the server has confirmed, so that a history read after
        it and the live records together have no hole."""
        ...

    def unsubscribe(self, rooms: Sequence[str]) -> None:
        """Stop the live records of rooms; does not wait."""
        ...


@dataclass(frozen=True, slots=True)
class SavedSession:
    """What survives a connection for `session_ttl` seconds.  `positions` are the confirmed ones, `watching` the rooms
    whose presence it asked for, `host_state` names what it had of the host application and loses: `rooms`, `session`.
    """

    session_id: str
    user_id: str
    owner: str
    positions: Mapping[str, Position]
    metadata: Mapping[str, object] = field(default_factory=dict)
    watching: tuple[str, ...] = ()
    host_state: tuple[str, ...] = ()


ANONYMOUS = "anon:"  # begins the user ids of those who gave no name


class SessionStore(Protocol):
    """Reconnect state, fenced by owner: only the connection that took a session last may save or drop it (G4).

    An owner is `<worker boot id>:<sid>`, unique to one connection.
    """

    def save(self, sessions: Sequence[SavedSession]) -> list[bool]:
        """Write each session (restarting its time to live) unless another owner has taken it; one round trip.
        False marks the ones refused.  A session that was never saved or has lapsed is created."""
        ...

    def take(self, session_id: str, owner: str, user_id: str | None = None) -> SavedSession | None:
        """Make `owner` the owner and return the state as it was saved (with the PREVIOUS owner in `owner`), or None
        when there is none.  A position without an epoch, of before a restart of the server, comes with one that no room
        has any more.  A previous owner on another worker is told on its control channel: `fenced <sid>`.  With
        `user_id` ("" for nobody) the session of another named user is left alone, and PermissionError is raised."""
        ...

    def drop(self, session_id: str, owner: str) -> bool:
        """Forget the session if `owner` still owns it."""
        ...


class Revocations(Protocol):
    """Who is refused before their time.  An entry is what `wsapp.auth.revocation` makes."""

    def revoke(self, entry: str, at: float, until: float) -> None:
        """Refuse what was issued up to `at`, until `until` (both seconds since the epoch), and tell every worker on
        its control channel: `revoked <entry> <at> <until>`.  Revoking again never shortens it."""
        ...

    def revoked(self, entries: Sequence[str]) -> dict[str, float]:
        """Which of the entries are revoked, and as of when; one round trip."""
        ...


class Cluster(Protocol):
    """The workers' view of each other."""

    def beat(self, boot: str, facts: Mapping[str, object], ttl: float) -> None:
        """Renew this worker's lease and publish its facts (JSON values) for `ttl` seconds."""
        ...

    def leave(self, boot: str) -> None:
        """End the lease now."""
        ...

    def workers(self) -> dict[str, dict[str, object]]:
        """Facts of every worker whose lease is alive, by boot id."""
        ...

    def send(self, boot: str, message: bytes) -> None:
        """Put a control message on one worker's channel; lost when the worker is gone."""
        ...

    def secret(self, offered: str, ttl: float) -> str:
        """The secret that all workers share: the one that is kept, or `offered`, which is kept from now on.  It lasts
        `ttl` seconds from here."""
        ...


UNBOUNDED: Final = 1 << 30  # sendings that nothing reaches


class Fate(StrEnum):
    """What became of a critical event for one user."""

    PENDING = "pending"
    ACKED = "acked"
    DEAD = "dead"


class Kept(NamedTuple):
    """A critical event that is to be kept for users, with its first redelivery `delay` seconds from now."""

    id: str
    record: bytes
    users: tuple[str, ...]
    delay: float


class Due(NamedTuple):
    """A critical event on its way to a user; `attempts` counts its sendings, the one that follows included."""

    user: str
    id: str
    attempts: int
    record: bytes


class Retry(NamedTuple):
    """Redeliver in `delay` seconds; but once it was sent `most` times it becomes a dead letter."""

    user: str
    id: str
    delay: float
    most: int


class UserDelivery(NamedTuple):
    """How a critical event stands for one user."""

    state: Fate
    attempts: int


class DeadLetter(NamedTuple):
    """A critical event that a user did not acknowledge; `died` in seconds since 1970."""

    user: str
    id: str
    attempts: int
    died: float
    record: bytes


class Buried(NamedTuple):
    """The place of a dead letter in their order: by death, to the millisecond, then by user and id."""

    died: float
    user: str
    id: str


class CriticalStore(Protocol):
    """Critical events, kept per user until acknowledged (G6).  An event is pending for a user, then acknowledged or a
    dead letter; it is forgotten for everybody `critical_ttl` seconds after it was first kept (a dead letter:
    `dead_ttl` after its death).  The store's clock counts, not the callers'."""

    def keep(self, kept: Sequence[Kept]) -> None:
        """Keep each event for its users, as sent once, in one round trip.  Nothing changes for a user for whom it is
        known, in whatever state.  A user who has `critical_items` pending gets no more: those become dead letters."""
        ...

    def due(self, users: Sequence[str], lease: float, most: int = UNBOUNDED) -> list[Due]:
        """What is to be redelivered now to any of these users, in the order of ids per user.  Each is counted as sent
        once more; not one that was sent `most` times, which is given all the same, to be buried.  Nobody else is given
        it for `lease` seconds; by then `retry` has said when it is due again."""
        ...

    def visit(self, users: Sequence[str], lease: float) -> list[Due]:
        """As `due`, of everything that is pending for users who have just come, and not counted."""
        ...

    def retry(self, retries: Sequence[Retry]) -> list[UserDelivery | None]:
        """Say when each is due again, or bury it; None for what is not pending (any more)."""
        ...

    def ack(self, user: str, id: str) -> bool:
        """The user has it, a dead letter too; again changes nothing.  False when it was never kept for the user."""
        ...

    def status(self, id: str) -> dict[str, UserDelivery]:
        """How an event stands, by user; empty when it was kept for nobody or is forgotten."""
        ...

    def dead(self, limit: int, after: Buried | None = None) -> list[DeadLetter]:
        """The dead letters, oldest first; those that follow `after`, which itself may be gone meanwhile."""
        ...

    def requeue(self, user: str, id: str) -> bool:
        """Make a dead letter pending and due at once, with its attempts counted anew.  False when it is none."""
        ...

    def drop(self, user: str, id: str) -> bool:
        """Take it off the dead letters; its state stays.  False when it is none."""
        ...


class Bus(Protocol):
    """The stock Flask-SocketIO message queue: `channel` carries python-socketio's JSON messages, so that
    `SocketIO(message_queue=url).emit(...)` anywhere reaches our clients."""

    def publish(self, message: bytes) -> None:
        """Put one message on the shared channel."""
        ...


@dataclass(frozen=True, slots=True)
class Watching:
    """Whether anybody watches a room.  `connections` is as old as the workers' last beats, but at least `workers`,
    which is now: how many workers follow the room for their clients (one lets go a second after its last)."""

    connections: int
    workers: int

    def __bool__(self) -> bool:
        return self.connections > 0


class Presence(Protocol):
    """Who watches rooms.  What a worker says holds for as long as its lease (`Cluster.beat`): a killed one's clients
    are gone with it.  Users are told apart only in rooms that a worker asks for."""

    def ask(self, boot: str, room: str, ttl: float) -> None:
        """`boot` wants to know of the room, for `ttl` seconds unless `sync` renews it."""
        ...

    def unask(self, boot: str, room: str) -> None:
        """`boot` wants to know no more."""
        ...

    def sync(self, boot: str, counts: Mapping[str, int], ttl: float, *, anew: bool) -> frozenset[str] | None:
        """Renew what `boot` said for `ttl` seconds and change its connections per room by `counts` (0: none left;
        `anew`: they are all).  The rooms that any living worker asks for; None when what it said has lapsed, so that
        it must say everything anew."""
        ...

    def update(self, boot: str, room: str, changes: Mapping[str, int]) -> None:
        """Set how many connections users have in a room on `boot`, 0 for none.  Every worker that asks gets the
        control message `presence <room>`."""
        ...

    def members(self, room: str) -> dict[str, int]:
        """Connections by user over the living workers, as far as they were told by `update`."""
        ...

    def watchers(self, room: str) -> Watching:
        """Whether anybody watches, asked for or not."""
        ...


class LiveSocket(Protocol):
    """The socket of a live connection."""

    def fileno(self) -> int: ...
    def recv(self, size: int) -> bytes:
        """What has arrived, at most `size` bytes; waits until there is something.  Empty at the end."""
        ...

    def recv_now(self, size: int) -> bytes:
        """As `recv`, but raises BlockingIOError instead of waiting.  Only where the descriptor does not block."""
        ...


class Reading(Protocol):
    """How a live connection is read until it ends."""

    def __call__(self, sock: LiveSocket, take: Callable[[bytes], bool], settle: Callable[[], None]) -> None:
        """Pass all that arrives to `take`, which never waits; where it returns True, call `settle` soon after in the
        calling thread: `settle` may wait.  Raises ConnectionResetError at the end, OSError, and what the two raise."""
        ...


class Backend(Protocol):
    """One family of twins: everything above, made of one connection pool and one live connection."""

    broker: Broker
    sessions: SessionStore
    critical: CriticalStore
    cluster: Cluster
    revocations: Revocations
    bus: Bus
    api_keys: ApiKeys
    presence: Presence
    shared: bool  # whether other processes see it (False: memory, one worker only)

    @property
    def parts(self) -> Sequence[Backend]:
        """The backends of its partitions by number; empty where there is one alone."""
        ...

    def start(self, boot: str, on_record: Callable[[str, bytes], None], on_gap: Callable[[], None],
              on_bus: Callable[[bytes], None], on_control: Callable[[bytes], None]) -> None:
        """Open the live connection and listen on the subscribed rooms, the stock channel and this worker's control
        channel, on a thread of its own (a greenlet in a patched worker).

        `on_record(room, record)` is called in publish order and never concurrently, and must not wait: a worker calls
        it from the hub.  The other three may wait.  `on_gap()` is called whenever records
        may have been lost: the live connection was remade and every room is subscribed again.  Returns at once;
        a server that is away is retried with capped backoff and jitter.
        """
        ...

    @property
    def deaf(self) -> str | None:
        """Why what is published now does not come live; None when it does."""
        ...

    def hasty(self, timeout: float) -> Broker:
        """The same broker for callers that can't wait as long: its publish gives up after `timeout` seconds."""
        ...

    def reconnect(self) -> None:
        """Make the live connection anew: it looks alive and nothing arrives.  Returns at once; `on_gap` follows."""
        ...

    def ping(self) -> float:
        """Round trip to the server in seconds.  Raises BrokerUnavailable."""
        ...

    def close(self) -> None:
        """Close everything.  Idempotent."""
        ...
