"""Waiting for another thread."""

from __future__ import annotations

import threading
import time

from wsapp.backends.flag import Flag


def test_everybody_who_waits_goes_on() -> None:
    flag, gone = Flag(), list[bool]()
    threads = [threading.Thread(target=lambda: gone.append(flag.wait(20))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert not flag.is_set()
    flag.set()
    for thread in threads:
        thread.join(20)
    assert gone == [True] * 5
    assert flag.is_set() and flag.wait(0) and flag.wait(-1)


def test_a_wait_has_an_end() -> None:
    begun = time.monotonic()
    assert not Flag().wait(0.02)
    assert not Flag().wait(-1)
    assert time.monotonic() - begun >= 0.02
