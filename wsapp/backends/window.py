"""A burst becomes one pipeline: calls of a kind that come while another is under way leave together.

A lone one leaves at once, in a round trip of its own.  Callers are threads, or greenlets in a patched worker; one
of them at a time sends for all that wait, and hands that on as soon as its own answer is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from wsapp.errors import BrokerUnavailable

LARGEST: Final = 500  # items of one pipeline, unless one caller alone has more

T = TypeVar("T")
R = TypeVar("R")


class _Call(Generic[T, R]):
    """One caller's items, and what became of them."""

    __slots__ = ("answers", "error", "items", "turn")

    def __init__(self, items: Sequence[T]) -> None:
        self.items = items
        self.answers: list[R] | None = None
        self.error: Exception | None = None
        self.turn: threading.Event | None = None  # set when answered, or when it is to send


class Window(Generic[T, R]):
    """`send` does a sequence of items in one round trip, with an answer for each, and may raise."""

    def __init__(self, send: Callable[[Sequence[T]], list[R]]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._waiting: list[_Call[T, R]] = []
        self._busy = False

    def ask(self, items: Sequence[T]) -> list[R]:
        """The answers to these items.  When the server is away all that wait are told so with the first of them, so
        that nobody waits for a second time-out."""
        call: _Call[T, R] = _Call(items)
        with self._lock:
            if self._busy:
                call.turn = threading.Event()
                self._waiting.append(call)
            self._busy = True
        if call.turn is not None:
            self._await_turn(call, call.turn)
        if call.answers is None and call.error is None:
            self._send_for(call)
        if call.error is not None:
            raise call.error
        assert call.answers is not None
        return call.answers

    def _await_turn(self, call: _Call[T, R], turn: threading.Event) -> None:
        try:
            turn.wait()
        except BaseException:  # Ctrl-C, or a greenlet that is killed: the others go on without it
            with self._lock:
                waiting = call in self._waiting
                if waiting:
                    self._waiting.remove(call)
            if not waiting and turn.is_set() and call.answers is None and call.error is None:
                self._pass_on([])
            raise

    def _send_for(self, first: _Call[T, R]) -> None:
        """Send what `first` and those behind it want; then it is the next one's turn."""
        calls = [first, *self._companions(len(first.items))]
        try:
            self._send_all(calls)
        except BaseException:
            for call in calls[1:]:
                call.error = BrokerUnavailable("the pipeline of this call was interrupted; try again")
            raise
        finally:
            self._pass_on(calls)

    def _send_all(self, calls: list[_Call[T, R]]) -> None:
        try:
            answers = self._send([item for call in calls for item in call.items])
        except BrokerUnavailable as error:
            with self._lock:
                calls += self._waiting
                self._waiting = []
            for call in calls:
                call.error = error
        except Exception as error:
            if len(calls) == 1:
                calls[0].error = error
            else:
                self._one_by_one(calls)
        else:
            _hand_out(calls, answers)

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

    def _one_by_one(self, calls: list[_Call[T, R]]) -> None:
        """One item is refused: that is told to its caller alone."""
        for call in calls:
            try:
                call.answers = self._send(call.items)
            except Exception as error:
                call.error = error

    def _pass_on(self, calls: list[_Call[T, R]]) -> None:
        with self._lock:
            following = self._waiting.pop(0) if self._waiting else None
            self._busy = following is not None
        for call in (*calls, *([following] if following else [])):
            if call.turn is not None:
                call.turn.set()


def _hand_out(calls: list[_Call[T, R]], answers: list[R]) -> None:
    start = 0
    for call in calls:
        call.answers = answers[start:start + len(call.items)]
        start += len(call.items)
