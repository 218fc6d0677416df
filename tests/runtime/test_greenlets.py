"""Loops that are begun again, and end together."""

from __future__ import annotations

import gevent
import pytest

from tests.runtime.world import eventually
from wsapp.runtime import greenlets as module
from wsapp.runtime.greenlets import Greenlets


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
