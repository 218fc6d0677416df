"""The link to Redis, or to one partition of it.

           LOST                ANSWERED
     UP ---------> DOWN ----------------> CATCHING_UP
      ^             |^                       |   |
      |   CAUGHT_UP |+--------- LOST --------+   |
      +-------------+------- CAUGHT_UP ----------+

A link is DOWN when a publish, or the probe after somebody's question failed, is not answered.  It is CATCHING_UP while
publications that waited are being recorded.
"""

from __future__ import annotations

import random
from enum import Enum, StrEnum, auto
from typing import Final


class LinkState(StrEnum):
    """The values are what `/readyz`, the metrics and the `mode` event say."""

    UP = "normal"
    CATCHING_UP = "catching_up"
    DOWN = "degraded"


class LinkEvent(Enum):
    """What a link learns."""

    LOST = auto()  # Redis did not answer
    ANSWERED = auto()  # Redis answered, and publications wait
    CAUGHT_UP = auto()  # Redis answered, and nothing waits


AFTER: Final = {
    (LinkState.UP, LinkEvent.LOST): LinkState.DOWN,
    (LinkState.UP, LinkEvent.ANSWERED): LinkState.CATCHING_UP,
    (LinkState.UP, LinkEvent.CAUGHT_UP): LinkState.UP,
    (LinkState.DOWN, LinkEvent.LOST): LinkState.DOWN,
    (LinkState.DOWN, LinkEvent.ANSWERED): LinkState.CATCHING_UP,
    (LinkState.DOWN, LinkEvent.CAUGHT_UP): LinkState.UP,
    (LinkState.CATCHING_UP, LinkEvent.LOST): LinkState.DOWN,
    (LinkState.CATCHING_UP, LinkEvent.ANSWERED): LinkState.CATCHING_UP,
    (LinkState.CATCHING_UP, LinkEvent.CAUGHT_UP): LinkState.UP,
}
WORSE: Final = tuple(LinkState)  # from the best to the worst


def worst(states: tuple[LinkState, ...]) -> LinkState:
    """The state of several links as one."""
    return max(states, key=WORSE.index)


class Backoff:
    """Pauses between attempts: each twice as long as the one before, up to a limit, and jittered downwards by up to a
    half, so that the workers of a cluster do not return in step."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self.failures = 0

    def next_s(self) -> float:
        """The pause after one more failure, in seconds."""
        pause = min(self._longest_s, self._first_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return pause * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """An attempt has succeeded."""
        self.failures = 0
