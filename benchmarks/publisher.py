"""Publishes for wsapp (its Emitter), the stock server (SocketIO with a message queue) or the reference loop.

Run as a process of its own with one JSON plan:
`{target, redis, rooms, first, text, seconds, rate | window + members, shared}`.
Prints `{published, refused, seconds}`: what reached the broker, and what did not because it was not reached in time.
"""

from __future__ import annotations

import json
import mmap
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Plan = dict[str, Any]
Publish = Callable[[int], bool]


def thought(plan: Plan, n: int) -> dict[str, object]:
    """The n-th event.  The stamp stands at the front of the text, so every target's schema takes it."""
    return {"agentId": f"a{plan['first'] + n % plan['rooms']}",
            "thought": f"benchNs={time.monotonic_ns()} {plan['text']}", "timestamp": time.time_ns() // 1_000_000}


def for_wsapp(plan: Plan) -> Publish:
    """wsapp's own Emitter, one round trip per event."""
    from wsapp import BrokerUnavailable, Emitter

    emitter = Emitter(plan["redis"])

    def publish(n: int) -> bool:
        try:
            return bool(emitter.broadcast_agent_thought(thought(plan, n)).id)
        except BrokerUnavailable:
            return False

    return publish


def for_stock(plan: Plan) -> Publish:
    """Flask-SocketIO's external emitter."""
    from flask_socketio import SocketIO

    socketio = SocketIO(message_queue=plan["redis"])

    def publish(n: int) -> bool:
        data = thought(plan, n)
        socketio.emit("agent-thought", data, to=f"agent:{data['agentId']}")
        return True

    return publish


def for_reference(plan: Plan) -> Publish:
    """The finished text on the reference loop's channel."""
    import redis

    connection = redis.Redis.from_url(plan["redis"])

    def publish(n: int) -> bool:
        text = json.dumps(["agent-thought", {**thought(plan, n), "id": f"{time.time_ns()}", "seq": n}],
                          separators=(",", ":"))
        connection.publish("bench-reference", f"{plan['first'] + n % plan['rooms']} 42{text}")
        return True

    return publish


PUBLISHERS = {"wsapp": for_wsapp, "stock": for_stock, "reference": for_reference}


def paced(plan: Plan, publish: Publish) -> tuple[int, int]:
    """`rate` per second on an absolute schedule."""
    began, rate, end = time.monotonic(), float(plan["rate"]), float(plan["seconds"])
    n = reached = 0
    while n / rate < end:
        wait = began + n / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        reached += publish(n)
        n += 1
    return reached, n - reached


def windowed(plan: Plan, publish: Publish) -> tuple[int, int]:
    """A closed loop: at most `window` events are on the way to the `members` of a room at once."""
    with Path(plan["shared"]).open("rb") as file:
        page = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ)
    members, window, end = plan["members"], plan["window"], time.monotonic() + plan["seconds"]
    base = struct.unpack_from("<Q", page, 0)[0]
    n = tried = 0
    while time.monotonic() < end:
        if n < window + (struct.unpack_from("<Q", page, 0)[0] - base) / members:
            n += publish(n)
            tried += 1
        else:
            time.sleep(0.001)
    return n, tried - n


def main() -> None:
    """Carry out the plan of argv."""
    plan: Plan = json.loads(sys.argv[1])
    publish = PUBLISHERS[plan["target"]](plan)
    began = time.monotonic()
    published, refused = windowed(plan, publish) if plan.get("window") else paced(plan, publish)
    print(json.dumps({"published": published, "refused": refused, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
