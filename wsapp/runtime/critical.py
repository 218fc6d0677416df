"""Critical events on this worker: kept before they are sent, sent again until acknowledged (G6).

A publisher does not know who watches.  So every worker that passes a critical publication on says first for which
users it does: the room waits for one round trip, other rooms go on.  When Redis does not answer, the event is
delivered at once and kept later.  Redelivery asks for what is due to the users who are connected here.
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import gevent
from gevent.event import Event

from wsapp.core.connections import ConnectionManager
from wsapp.core.critical import RetryPolicy
from wsapp.core.events import Publication, parse_record
from wsapp.core.ledger import Ledger
from wsapp.core.ports import CriticalStore, Due, Fate, Kept, UserDelivery
from wsapp.core.session import Session
from wsapp.errors import BrokerUnavailable
from wsapp.metrics import Metrics
from wsapp.runtime.batches import single_frame

log = logging.getLogger(__name__)

BATCH: Final = 100  # publications kept in one round trip
LONGEST_REST: Final = 4  # times the usual wait between two looks for what is due
LATER_LIMIT: Final = 10_000  # publications that wait to be kept while Redis is away

class _Waiting(NamedTuple):
    publication: Publication
    users: tuple[str, ...]
    release: Callable[[], None]


class CriticalDelivery:
    """One per worker.  `may_read(session, room)` is asked before a copy is sent."""

    def __init__(self, store: CriticalStore, policy: RetryPolicy, connections: ConnectionManager, metrics: Metrics,
                 may_read: Callable[[Session, str], bool], ledger: Ledger | None = None) -> None:
        self._store, self._policy, self._connections = store, policy, connections
        self._metrics, self._may_read, self._ledger = metrics, may_read, ledger
        self._away = False
        self.holding: set[Publication] = set()
        self._waiting: deque[_Waiting] = deque()
        self._later: OrderedDict[str, tuple[Publication, set[str]]] = OrderedDict()
        self._arrived: dict[Session, frozenset[str]] = {}
        self._to_keep, self._to_visit = Event(), Event()
        self._news = Event()  # something will be due soon

    def start(self, run: Callable[[str, Callable[[], None]], object]) -> None:
        """Hand the loops to `run(name, loop)`."""
        run("critical keeping", self.keep_forever)
        run("critical visits", self.visit_forever)
        run("critical redelivery", self.sweep_forever)

    # -- keeping

    def hold(self, publication: Publication, users: Iterable[str], release: Callable[[], None]) -> bool:
        """Keep a publication for users before they get it.  True: it is in `holding`, pass it on when `release` is
        called.  False: pass it on now."""
        users = tuple(users)
        if not users:
            return False
        if self._away:
            self.later(publication, users)
            return False
        self.holding.add(publication)
        self._waiting.append(_Waiting(publication, users, release))
        self._to_keep.set()
        return True

    def replaying(self, session: Session, publications: Iterable[Publication]) -> frozenset[str]:
        """Keep the critical ones of what is about to be replayed to a session; their ids.  Waits for Redis."""
        critical = [publication for publication in publications if publication.critical]
        if critical and not self._away:
            self._keep([(publication, (session.user_id,)) for publication in critical])
        elif critical:
            for publication in critical:
                self.later(publication, (session.user_id,))
        return frozenset(publication.id for publication in critical)

    def later(self, publication: Publication, users: Iterable[str]) -> None:
        """Keep what is delivered already, as soon as Redis answers."""
        _, known = self._later.setdefault(publication.id, (publication, set()))
        known.update(users)
        if len(self._later) > LATER_LIMIT:
            id, (_, lost) = self._later.popitem(last=False)
            log.error("critical event %s was delivered once to %d users and is not kept: Redis is away", id, len(lost))

    def keep_forever(self) -> None:
        """Keep what waits, all of it in one round trip; one greenlet runs this."""
        while True:
            self._to_keep.wait()
            self._to_keep.clear()
            self.keep_waiting()

    def keep_waiting(self) -> None:
        """Keep and release what waits now."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                self._keep([(one.publication, one.users) for one in batch])
            finally:
                for one in batch:
                    self.holding.discard(one.publication)
                    one.release()

    def _keep(self, publications: Sequence[tuple[Publication, Sequence[str]]]) -> None:
        """Within the store's timeout; what it could not take is kept later."""
        if not self._away:
            try:
                self._store.keep([self._kept(*one) for one in publications])
                self._news.set()
                return
            except BrokerUnavailable as error:
                self._lost(error)
        for publication, users in publications:
            self.later(publication, users)

    def _kept(self, publication: Publication, users: Iterable[str]) -> Kept:
        return Kept(publication.id, publication.record(), tuple(users), self._policy.delay(1))

    def _lost(self, error: BrokerUnavailable) -> None:
        if not self._away:
            log.warning("critical events are delivered and wait to be kept: %s", error)
        self._away = True

    def _keep_later(self) -> None:
        while self._later:
            some = [self._later[id] for id, _ in zip(self._later, range(BATCH), strict=False)]
            kept = [self._kept(publication, tuple(users)) for publication, users in some]
            self._store.keep(kept)
            for one in kept:
                self._drop_kept(one)

    def flush(self) -> None:
        """Before the worker ends: keep what is delivered and not kept yet."""
        try:
            self._keep_later()
        except BrokerUnavailable as error:
            log.error("%d critical events were delivered once and are not kept: %s", len(self._later), error)

    def _drop_kept(self, kept: Kept) -> None:
        """Users who were added meanwhile still wait."""
        _, users = self._later.get(kept.id, (None, set()))
        users.difference_update(kept.users)
        if not users:
            self._later.pop(kept.id, None)

    # -- users who come

    def arrived(self, session: Session, replayed: frozenset[str] = frozenset()) -> None:
        """A session has begun: it is soon sent what is pending for its user, without what was just replayed to it."""
        self._arrived[session] = replayed
        self._to_visit.set()

    def visit_forever(self) -> None:
        """Send what is pending to those who have just come; one greenlet runs this."""
        while True:
            self._to_visit.wait()
            self._to_visit.clear()
            self.visit()

    def visit(self) -> None:
        """Send what is pending to those who have come since the last visit."""
        arrived, self._arrived = self._arrived, {}
        if not arrived:
            return
        users = list(dict.fromkeys(session.user_id for session in arrived))
        try:
            found = self._store.visit(users, self._policy.delay(1))
        except BrokerUnavailable as error:
            self._lost(error)
            self._arrived = {session: known for session, known in {**arrived, **self._arrived}.items()
                             if self._connections.session(session.sid) is session}
            return
        sessions: dict[str, list[Session]] = {}
        for session in arrived:
            if self._connections.session(session.sid) is session:
                sessions.setdefault(session.user_id, []).append(session)
        self._send(found, lambda due: [session for session in sessions.get(due.user, ())
                                       if due.id not in arrived[session]])

    # -- redelivery

    def sweep_forever(self) -> None:
        """Send again what is due; one greenlet runs this.  While nothing is, it looks less often."""
        rest = 1
        while True:
            if self._news.wait(self._policy.sweep * rest * random.uniform(0.5, 1.0)):
                self._news.clear()
                rest = 1
                gevent.sleep(self._policy.sweep * random.uniform(0.5, 1.0))
            try:
                rest = 1 if self.sweep() else min(LONGEST_REST, 2 * rest)
            except BrokerUnavailable as error:
                self._lost(error)

    def sweep(self) -> int:
        """Send again what is due to the users who are connected here, and bury what was sent often enough; how many
        were due.  Raises BrokerUnavailable."""
        self._keep_later()
        found = self._store.due(self._connections.users(), self._policy.lease, self._policy.attempts)
        self._back()
        self._send([due for due in found if not self._policy.exhausted(due)],
                   lambda due: self._connections.user_sessions(due.user))
        for due, outcome in zip(found, self._store.retry([self._policy.after(due) for due in found]), strict=True):
            self._tell_dead(due.user, due.id, outcome)
        return len(found)

    def _back(self) -> None:
        if self._away:
            self._away = False
            log.info("critical events are kept again")
            self._to_visit.set()

    def _send(self, found: Iterable[Due], receivers: Callable[[Due], Iterable[Session]]) -> None:
        parsed: dict[str, Publication] = {}
        for due in found:
            for session in receivers(due):
                publication = parsed.get(due.id) or parsed.setdefault(due.id, parse_record(due.record))
                if not any(self._may_read(session, place.room) for place in publication.places):
                    continue
                session.peer.push(self._frame(publication, session))
                session.sent += 1
                self._metrics.sent += 1
                self._metrics.redelivered += 1
                self._account(session, publication)

    def _account(self, session: Session, publication: Publication) -> None:
        """A copy was sent: to a session that has it, or that did not exist the first time."""
        if self._ledger is not None:
            place = next((one for one in publication.places if one.room in session.subs), publication.places[0])
            self._ledger.owed(session.id, publication.id, place.room, place.seq, publication.entity)
            self._ledger.repeated(session.id, publication.id)

    def _frame(self, publication: Publication, session: Session) -> Any:
        """The frame as it was sent first."""
        rooms = [place.room for place in publication.places]
        room = next((name for name in rooms if name in session.subs), rooms[0])
        return single_frame(publication, session.profile, room)

    def _tell_dead(self, user: str, id: str, outcome: UserDelivery | None) -> None:
        if outcome is not None and outcome.state is Fate.DEAD:
            self._metrics.dead_letters += 1
            log.warning("critical event %s is a dead letter: %s did not acknowledge it in %d deliveries",
                        id, user, outcome.attempts)

    # -- what clients answer

    def ack(self, user: str, id: str) -> bool:
        """The user has it.  False when it was never sent to the user as critical.  Raises BrokerUnavailable."""
        self._keep_first(user, id)
        return self._store.ack(user, id)

    def nack(self, user: str, id: str) -> UserDelivery | None:
        """The user wants it again; None when it is not pending for the user.  Raises BrokerUnavailable."""
        self._keep_first(user, id)
        (outcome,) = self._store.retry([self._policy.refused(user, id)])
        self._news.set()
        self._tell_dead(user, id, outcome)
        return outcome

    def _keep_first(self, user: str, id: str) -> None:
        """An answer to what is not kept yet would be lost."""
        waiting = self._later.get(id)
        if waiting is not None and user in waiting[1]:
            self._store.keep([self._kept(waiting[0], (user,))])
            waiting[1].discard(user)
