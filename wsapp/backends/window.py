"""A burst becomes one pipeline: calls of a kind that come while another is under way leave together.

A lone one leaves at once, in a round trip of its own.  Callers are threads, or greenlets in a patched worker; one
of them at a time sends for all that wait, and hands that on as soon as its own answer is there.  Nobody waits for
its turn longer than `patience`: whoever sends may be ended by an exception from outside (Ctrl-C, a time limit).

A call that comes while its own thread is in another one (a signal handler, a finalizer) waits for nobody: it would
wait for itself.  A child process begins with nobody waiting.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from wsapp.errors import BrokerUnavailable

LOOK: Final = 0.05  # seconds between looks of who waits whether the sender is still there
LARGEST: Final = 500  # items of one pipeline, unless one caller alone has more

T = TypeVar("T")
R = TypeVar("R")


class Interrupted(BrokerUnavailable):
    """Another caller's exception ended the pipeline that this one's items were in: nothing is known of them."""


class _Call(Generic[T, R]):
    """One caller's items, and what became of them."""

    __slots__ = ("answers", "error", "items", "thread", "turn")

    def __init__(self, items: Sequence[T], thread: int) -> None:
        self.items, self.thread = items, thread
        self.answers: list[R] | None = None
        self.error: BrokerUnavailable | None = None
        self.turn: threading.Event | None = None  # set when answered, or when it is to send

    @property
    def settled(self) -> bool:
        return self.answers is not None or self.error is not None


class Window(Generic[T, R]):
    """`send` does a sequence of items in one round trip, with an answer for each; it raises BrokerUnavailable for all
    of them, and nothing else by itself.  `patience` in seconds."""

    def __init__(self, send: Callable[[Sequence[T]], list[R]], patience: float) -> None:
        self._send, self._patience = send, patience
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Call[T, R]] = []
        self._sender: int | None = None  # the thread that sends; gone when it is not inside
        self._inside: set[int] = set()  # threads that are in `ask`
        self._pid = os.getpid()

    def ask(self, items: Sequence[T]) -> list[R]:
        """The answers to these items.  When the server is away all that wait get that error with the first of them, so
        that nobody waits for a second time-out.  Raises BrokerUnavailable."""
        if self._pid != os.getpid():
            self._begin()
        inside, me = self._inside, threading.get_ident()
        if me in inside:
            return self._send(items)
        inside.add(me)
        try:
            return self._ask(_Call(items, me))
        finally:
            inside.discard(me)

    def _ask(self, call: _Call[T, R]) -> list[R]:
        with self._lock:
            if self._is_sent_by_another(call):
                call.turn = threading.Event()
                self._waiting.append(call)
            else:
                self._sender = call.thread
        if call.turn is not None:
            self._await_turn(call, call.turn)
        if not call.settled:
            self._send_for(call)
        if call.error is not None:
            raise call.error
        assert call.answers is not None
        return call.answers

    def _is_sent_by_another(self, call: _Call[T, R]) -> bool:
        return self._sender != call.thread and self._sender in self._inside

    def _await_turn(self, call: _Call[T, R], turn: threading.Event) -> None:
        deadline = time.monotonic() + self._patience
        try:
            while not turn.wait(LOOK) and not self._takes_over(call, time.monotonic() > deadline):
                pass
        except BaseException:  # Ctrl-C, or a greenlet that is killed: the others go on without it
            with self._lock:
                waiting = call in self._waiting
                if waiting:
                    self._waiting.remove(call)
            if not waiting and turn.is_set() and not call.settled:
                self._pass_on([])
            raise

    def _takes_over(self, call: _Call[T, R], late: bool) -> bool:
        """Whether a call that has waited for a moment waits no longer: it is too late, or whoever was to send for it
        is gone, ended between two lines by an exception from outside."""
        with self._lock:
            another, waiting = self._is_sent_by_another(call), call in self._waiting
            if another and not (late and waiting):
                return False
            if waiting:
                self._waiting.remove(call)
            if another:
                call.error = BrokerUnavailable(f"the calls before this one took longer than {self._patience:g} s;"
                                               " nothing was sent")
            elif waiting or self._sender == call.thread:
                self._sender = call.thread
            elif not call.settled:
                call.error = Interrupted("the pipeline of this call was interrupted")
            return True

    def _send_for(self, first: _Call[T, R]) -> None:
        """Send what `first` and those behind it want; then it is the next one's turn."""
        calls = [first, *self._companions(len(first.items))]
        try:
            _hand_out(calls, self._send([item for call in calls for item in call.items]))
        except BrokerUnavailable as error:
            with self._lock:
                calls += self._waiting
                self._waiting = []
            for call in calls:
                call.error = error
        except BaseException:  # from outside, for this thread alone: it says nothing about the server
            for call in calls[1:]:
                call.error = Interrupted("the pipeline of this call was interrupted; try again")
            raise
        finally:
            self._pass_on(calls)

    def _companions(self, count: int) -> list[_Call[T, R]]:
        with self._lock:
            taken = 0
            for call in self._waiting:
                count += len(call.items)
                if count > LARGEST:
                    break
                taken += 1
            companions, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return companions

    def _pass_on(self, calls: list[_Call[T, R]]) -> None:
        with self._lock:
            following = self._waiting.pop(0) if self._waiting else None
            self._sender = following.thread if following is not None else None
        for call in (*calls, *([following] if following else [])):
            if call.turn is not None:
                call.turn.set()


def _hand_out(calls: list[_Call[T, R]], answers: list[R]) -> None:
    start = 0
    for call in calls:
        call.answers = answers[start:start + len(call.items)]
        start += len(call.items)
