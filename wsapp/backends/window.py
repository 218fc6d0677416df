"""A burst becomes one pipeline: publishes that come while another is under way leave together.

A lone publish leaves at once, in a round trip of its own.  Callers are threads, or greenlets in a patched worker; one
of them at a time sends for all that wait, and hands that on as soon as its own answer is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from wsapp.core.events import Draft
from wsapp.core.ports import Receipt
from wsapp.errors import BrokerUnavailable

LARGEST: Final = 500  # drafts of one pipeline, unless one caller alone has more


class _Call:
    """One caller's drafts, and what became of them."""

    __slots__ = ("drafts", "error", "receipts", "turn")

    def __init__(self, drafts: Sequence[Draft]) -> None:
        self.drafts = drafts
        self.receipts: list[Receipt] | None = None
        self.error: Exception | None = None
        self.turn: threading.Event | None = None  # set when answered, or when it is to send


class Window:
    """`send` publishes a sequence of drafts in one round trip and may raise."""

    def __init__(self, send: Callable[[Sequence[Draft]], list[Receipt]]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._waiting: list[_Call] = []
        self._busy = False

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """As `Broker.publish`.  When the server is away all that wait are told so with the first of them, so that
        nobody waits for a second time-out."""
        call = _Call(drafts)
        with self._lock:
            if self._busy:
                call.turn = threading.Event()
                self._waiting.append(call)
            self._busy = True
        if call.turn is not None:
            self._await_turn(call, call.turn)
        if call.receipts is None and call.error is None:
            self._send_for(call)
        if call.error is not None:
            raise call.error
        assert call.receipts is not None
        return call.receipts

    def _await_turn(self, call: _Call, turn: threading.Event) -> None:
        try:
            turn.wait()
        except BaseException:  # Ctrl-C, or a greenlet that is killed: the others go on without it
            with self._lock:
                waiting = call in self._waiting
                if waiting:
                    self._waiting.remove(call)
            if not waiting and turn.is_set() and call.receipts is None and call.error is None:
                self._pass_on([])
            raise

    def _send_for(self, first: _Call) -> None:
        """Send what `first` and those behind it want; then it is the next one's turn."""
        calls = [first, *self._companions(len(first.drafts))]
        try:
            self._send_all(calls)
        except BaseException:
            for call in calls[1:]:
                call.error = BrokerUnavailable("the pipeline of this publish was interrupted; try again")
            raise
        finally:
            self._pass_on(calls)

    def _send_all(self, calls: list[_Call]) -> None:
        try:
            receipts = self._send([draft for call in calls for draft in call.drafts])
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
            _hand_out(calls, receipts)

    def _companions(self, count: int) -> list[_Call]:
        with self._lock:
            taken = 0
            for call in self._waiting:
                count += len(call.drafts)
                if count > LARGEST:
                    break
                taken += 1
            companions, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return companions

    def _one_by_one(self, calls: list[_Call]) -> None:
        """One draft cannot be published: that is told to its caller alone."""
        for call in calls:
            try:
                call.receipts = self._send(call.drafts)
            except Exception as error:
                call.error = error

    def _pass_on(self, calls: list[_Call]) -> None:
        with self._lock:
            following = self._waiting.pop(0) if self._waiting else None
            self._busy = following is not None
        for call in (*calls, *([following] if following else [])):
            if call.turn is not None:
                call.turn.set()


def _hand_out(calls: list[_Call], receipts: list[Receipt]) -> None:
    start = 0
    for call in calls:
        call.receipts = receipts[start:start + len(call.drafts)]
        start += len(call.drafts)
