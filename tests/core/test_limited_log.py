"""Log lines that strangers cause are bounded, and none is left out without a count."""

from __future__ import annotations

import logging

import pytest

from wsapp.core.limited_log import BURST, MOST_SOURCES, SOURCE_BURST, LimitedLog

ours = logging.getLogger("wsapp.test_limited_log")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> LimitedLog:
    return LimitedLog(ours, clock)


def test_one_source_is_bounded_and_what_was_left_out_is_counted(log: LimitedLog, clock: Clock,
                                                                caplog: pytest.LogCaptureFixture) -> None:
    for number in range(SOURCE_BURST + 7):
        log.warning("1.2.3.4", "refused: %s", number)
    log.warning("5.6.7.8", "refused: %s", "another")
    assert len(caplog.messages) == SOURCE_BURST + 1
    clock.now = 60.0
    log.warning("1.2.3.4", "refused: %s", "again")
    assert caplog.messages[-2:] == ["refused: another", "refused: again; 7 more since the last such line"]


def test_all_sources_together_are_bounded(log: LimitedLog, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2 * MOST_SOURCES):
        log.warning(f"10.0.0.{number}", "refused")
    assert len(caplog.messages) == BURST
    assert len(log._sources) == MOST_SOURCES
