"""Loops that are begun again, and end together."""

from __future__ import annotations

import threading

import gevent
import pytest

from tests.runtime.world import eventually
from wsapp.runtime import greenlets as module
from wsapp.runtime.greenlets import Greenlets, on_the_hub


def test_a_loop_that_fails_is_logged_and_begun_again(monkeypatch: pytest.MonkeyPatch,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "RESTART_PAUSE", 0.001)
    begun: list[int] = []

    def loop() -> None:
        begun.append(1)
        raise RuntimeError("a bug")

    greenlets = Greenlets()
    greenlets.run("the loop", loop)
    eventually(lambda: len(begun) >= 3)
    greenlets.stop()
    count = len(begun)
    gevent.sleep(0.01)
    assert len(begun) == count
    assert "the loop failed" in caplog.text
    assert "a bug" in caplog.text


def test_a_task_that_fails_costs_its_turn_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTART_PAUSE", 0.001)
    turns: list[int] = []

    def task() -> None:
        turns.append(1)
        if len(turns) == 2:
            raise RuntimeError("a bug")

    greenlets = Greenlets()
    greenlets.every("the task", 0.001, task)
    eventually(lambda: len(turns) >= 4)
    greenlets.stop()


def test_adopted_ones_are_stopped_too_and_stopping_twice_is_fine() -> None:
    greenlets = Greenlets()
    adopted = gevent.spawn(gevent.sleep, 60)
    greenlets.adopt([adopted])
    greenlets.stop()
    greenlets.stop()
    assert adopted.dead


def test_what_a_thread_calls_runs_here_in_order() -> None:
    """Only in an unpatched process, as this one is, are there other threads."""
    seen: list[tuple[int, bool]] = []

    def call(number: int) -> None:
        seen.append((number, threading.get_ident() == home))
    home, handed = threading.get_ident(), on_the_hub(call)
    handed(0)
    assert seen == [(0, True)]
    thread = threading.Thread(target=lambda: [handed(number) for number in range(1, 50)])
    thread.start()
    eventually(lambda: len(seen) == 50)
    thread.join()
    assert seen == [(number, True) for number in range(50)]
