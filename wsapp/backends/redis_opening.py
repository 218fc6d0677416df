"""Making a connection beside the caller, who does not wait for ever: looking up a name has no time limit of its own."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """A connection."""

    def close(self) -> None: ...


W = TypeVar("W", bound=Closable)


def start_thread(run: Callable[[], None]) -> None:
    """Run something on a thread of its own (a greenlet in a patched worker).  Raises RuntimeError when the interpreter
    is about to end.  Not by `threading.Thread`: its start takes locks of that module, which the thread may hold on
    which a signal handler runs."""
    _thread.start_new_thread(run, ())


class Opening(Generic[W]):
    """One attempt, on a thread of its own (a greenlet in a patched worker).  Whoever gives up waiting leaves it to the
    next who wants a connection, or discards it."""

    def __init__(self, make: Callable[[], W]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._wire: W | None = None
        self._error: Exception | None = None
        self._unwanted = False
        try:
            start_thread(self._run)
        except RuntimeError:  # the interpreter is about to end and starts no threads any more
            self._run()

    def _run(self) -> None:
        try:
            wire = self._make()
        except Exception as error:
            self._error = error
        else:
            with self._lock:
                self._wire = wire
                if self._unwanted:
                    wire.close()
        finally:
            self._ended.set()

    def wait(self, seconds: float) -> W | None:
        """The connection, or None when it is not there yet.  Raises what the making raised."""
        self._ended.wait(seconds)
        if self._error is not None:
            raise self._error
        return self._wire

    def discard(self) -> None:
        """Close the connection, now or when it is made."""
        with self._lock:
            self._unwanted = True
            if self._wire is not None:
                self._wire.close()
