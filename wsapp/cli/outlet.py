"""The bounded queue between a command's output and Redis.

While Redis answers, a full queue makes the command wait, so no line is lost.  While it does not, the command goes
on: the oldest waiting lines are dropped and counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from wsapp.core.events import Draft
from wsapp.emitter import CHUNK_DRAFTS, Emitter, PublishInterrupted
from wsapp.errors import BrokerUnavailable, SettingsError

MAX_DRAFTS: Final = 10_000
MAX_BYTES: Final = 8_000_000
GRACE: Final = 5.0  # seconds at the end for a Redis that does not answer
FIRST_RETRY: Final = 0.2
LAST_RETRY: Final = 2.0


class Outlet:
    """Publishes what is `put`, in order, on a thread of its own.

    After an interruption what was under way is sent again as a retry, so that no line is recorded twice while the
    history keeps it.  `connect` is called on that thread, again after each failure.
    """

    def __init__(self, connect: Callable[[], Emitter], warn: Callable[[str], None]) -> None:
        self._connect, self._warn = connect, warn
        self._emitter: Emitter | None = None
        self._changed = threading.Condition()
        self._waiting: deque[Draft] = deque()
        self._bytes = 0
        self._state: Draft | None = None
        self._away = self._ended = self._abandoned = False
        self._batch: list[Draft] = []
        self.published = self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="wsapp-outlet", daemon=True)
        self._thread.start()

    def put(self, drafts: Sequence[Draft]) -> None:
        """Queue drafts; blocks while the queue is full and Redis is there."""
        for at in range(0, len(drafts), CHUNK_DRAFTS):
            self._put_some(drafts[at:at + CHUNK_DRAFTS])

    def _put_some(self, drafts: Sequence[Draft]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._away or not self._full())
            self._waiting.extend(drafts)
            self._bytes += sum(len(draft.body) for draft in drafts)
            while self._away and self._full():
                self._bytes -= len(self._waiting.popleft().body)
                self.dropped += 1
            self._changed.notify_all()

    def _full(self) -> bool:
        return len(self._waiting) >= MAX_DRAFTS or self._bytes >= MAX_BYTES

    def put_state(self, draft: Draft) -> None:
        """Queue a state; takes the place of one that still waits.  Never blocks, never dropped."""
        with self._changed:
            self._state = draft
            self._changed.notify_all()

    def finish(self, last: Draft | None) -> int:
        """Publish what waits, then `last`; gives up after 5 s without Redis.  Returns how many were lost."""
        with self._changed:
            if last is not None:
                self._state = None  # what it said is over
                self._waiting.append(last)
                self._bytes += len(last.body)
            self._ended = True
            self._changed.notify_all()
        deadline, seen = time.monotonic() + GRACE, self.published
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.05)
            if self.published != seen:
                deadline, seen = time.monotonic() + GRACE, self.published
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
            return self.dropped + len(self._batch) + len(self._waiting) + (self._state is not None)

    def _next_batch(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._state or self._ended)
            while self._waiting and len(self._batch) < CHUNK_DRAFTS:
                draft = self._waiting.popleft()
                self._bytes -= len(draft.body)
                self._batch.append(draft)
            if self._state is not None:
                self._batch.append(self._state)
                self._state = None
            self._changed.notify_all()
            return bool(self._batch)

    def _run(self) -> None:
        try:
            while not self._abandoned and self._next_batch():
                self._send_batch()
        except Exception as error:
            self._warn(f"publishing stopped: {type(error).__name__}: {error}")
            raise
        finally:
            with self._changed:
                self._away = True  # whoever waits in put() goes on; what is put is counted as lost
                self._changed.notify_all()
            if self._emitter is not None:
                self._emitter.close()

    def _send_batch(self) -> None:
        pause = FIRST_RETRY
        while self._batch and not self._abandoned:
            try:
                self._emitter = self._emitter or self._connect()
                done = len(self._emitter.publish_many(self._batch))
            except PublishInterrupted as error:
                done = len(error.receipts)
                self._batch[done:done + error.unknown] = error.retries
                self._lost_redis(error, pause)
                pause = min(2 * pause, LAST_RETRY)
            except (BrokerUnavailable, SettingsError) as error:
                done = 0
                self._lost_redis(error, pause)
                pause = min(2 * pause, LAST_RETRY)
            with self._changed:
                self.published += done
                del self._batch[:done]
                if done:
                    self._away = False

    def _lost_redis(self, error: Exception, pause: float) -> None:
        if not self._away:
            self._warn(f"the command goes on, its last {MAX_DRAFTS} events wait: {error}")
        if self._emitter is not None:
            self._emitter.close()
            self._emitter = None  # the address of a private Valkey changes with its server
        with self._changed:
            self._away = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._abandoned, timeout=pause)
