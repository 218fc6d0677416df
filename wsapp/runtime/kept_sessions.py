"""How many ended sessions of one user are kept for a return: who connects and leaves without end fills nobody's Redis.

Sessions without a user share one limit.  Twice as many as the worker had connections at one time are always kept: all
of them end at once when it is drained.  One that another worker has taken up is not dropped: it has another owner.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from wsapp.core.ports import ANONYMOUS
from wsapp.errors import BrokerUnavailable

log = logging.getLogger(__name__)

PER_USER: Final = 100  # ended sessions of a user that a worker keeps
WITHOUT_USER: Final = 10_000  # of all who have none
WITHIN: Final = 600.0  # seconds; older ones are not counted, and lapse by themselves
MOST_USERS: Final = 10_000

Drop = Callable[[str, str], object]


class KeptSessions:
    """One worker's.  `drop(session_id, owner)` forgets a session, unless it has another owner; `peak()` is the most
    connections that the worker had at one time."""

    def __init__(self, drop: Drop, peak: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._drop, self._peak, self._clock = drop, peak, clock
        self._users: OrderedDict[str, deque[tuple[float, str, str]]] = OrderedDict()

    def ended(self, user_id: str, session_id: str, owner: str) -> None:
        """A session has ended and is kept; the oldest of the same user goes when there are too many."""
        anonymous = user_id.startswith(ANONYMOUS)
        ended = self._users.setdefault("" if anonymous else user_id, deque())
        self._users.move_to_end("" if anonymous else user_id)
        now = self._clock()
        while ended and now - ended[0][0] > WITHIN:
            ended.popleft()
        ended.append((now, session_id, owner))
        if len(ended) > max(WITHOUT_USER if anonymous else PER_USER, 2 * self._peak()):
            self._forget(*ended.popleft()[1:])
        if len(self._users) > MOST_USERS:
            self._users.popitem(last=False)

    def _forget(self, session_id: str, owner: str) -> None:
        try:
            self._drop(session_id, owner)
        except BrokerUnavailable as error:
            log.info("a session that is too much lapses by itself: %s", error)
