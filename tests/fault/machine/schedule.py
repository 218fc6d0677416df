"""What breaks when: drawn from one seed, the same for every run with it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final, NamedTuple


class Fault(NamedTuple):
    """At `at` seconds `kind` begins and lasts `seconds`; `pick` (0 to 1) chooses its victim among those of the time."""

    at: float
    kind: str
    seconds: float
    pick: float


# Kind: (weight, shortest, longest) in seconds.
OF_REDIS: Final = {
    "redis_killed": (2, 0.2, 3.0), "redis_emptied": (1, 0.2, 2.0), "redis_flushed": (1, 0.0, 0.0),
    "redis_hung": (3, 0.1, 3.0), "redis_cut": (2, 0.0, 0.0), "redis_deaf": (2, 0.2, 3.0),
    "redis_slow": (2, 0.5, 2.0), "redis_refusing": (2, 0.2, 2.0), "pubsub_killed": (2, 0.0, 0.0),
    "pubsub_deaf": (2, 0.0, 0.0), "scripts_flushed": (1, 0.0, 0.0), "redis_promoted": (1, 0.1, 0.8),
}
OF_WORKERS: Final = {
    "worker_killed": (3, 0.0, 0.0), "worker_drained": (2, 0.0, 0.0), "worker_hung": (2, 0.1, 1.5),
    "reload": (1, 0.0, 0.0), "worker_emptied": (2, 0.5, 3.0),
}
OF_CLIENTS: Final = {
    "clients_cut": (2, 0.0, 0.0), "client_vanished": (3, 0.0, 0.0), "client_slow": (3, 0.5, 3.0),
    "client_away": (3, 0.2, 4.0), "clients_deaf": (1, 0.2, 2.0), "clients_mute": (1, 0.2, 2.0),
    "clients_doubled": (2, 0.3, 3.0), "client_twin": (2, 0.3, 2.0),
}
OF_CLOCKS: Final = {"worker_clock": (3, 1.5, 5.0), "redis_clock": (2, 1.5, 5.0)}
LANES: Final = (  # faults, mean pause in seconds
    (OF_REDIS, 3.0), (OF_WORKERS, 5.0), (OF_CLIENTS, 1.5), (OF_CLOCKS, 4.0))


def _lane(seed: str, faults: dict[str, tuple[int, float, float]], pause: float) -> Iterator[Fault]:
    chance = random.Random(seed)
    at = 0.5
    while True:
        at += chance.uniform(0.2, 1.8) * pause
        kind = chance.choices(list(faults), [weight for weight, _, _ in faults.values()])[0]
        _, shortest, longest = faults[kind]
        fault = Fault(round(at, 3), kind, round(chance.uniform(shortest, longest), 3), round(chance.random(), 6))
        yield fault
        at += fault.seconds


def lanes(seed: int) -> list[Iterator[Fault]]:
    """Endless faults of Redis, of workers, of clients and of clocks: one at a time in each lane, the lanes at the same
    time."""
    return [_lane(f"{seed}/{number}", faults, pause) for number, (faults, pause) in enumerate(LANES)]


def listed(seed: int, seconds: float) -> list[Fault]:
    """All faults that begin within `seconds`, in order."""
    found: list[Fault] = []
    for lane in lanes(seed):
        for fault in lane:
            if fault.at >= seconds:
                break
            found.append(fault)
    return sorted(found)
