"""A script that tells what it does, without a server of its own.

    make run                               # in another terminal, or REDIS_URL=... of a running one
    python -m examples.plain_script
"""

from __future__ import annotations

import time

from wsapp import Emitter


def main() -> None:
    """One thought and one progress a step, then a thousand thoughts in a few pipelines."""
    with Emitter() as emitter:
        emitter.broadcast_task_update({"taskId": "t1", "status": "in_progress", "progress": 0})
        for step in range(1, 6):
            emitter.broadcast_agent_thought({"agentId": "coder", "thought": f"step {step} of 5"}, also_to=["task:t1"])
            receipt = emitter.broadcast_task_update({"taskId": "t1", "status": "in_progress", "progress": 20 * step})
            print(receipt.status, dict(receipt.positions))
            time.sleep(0.2)
        receipts = emitter.publish_many(
            ("agent-thought", {"agentId": "coder", "thought": f"line {number}"}) for number in range(1000))
        emitter.broadcast_task_update({"taskId": "t1", "status": "completed", "progress": 100,
                                       "message": f"{len(receipts)} lines"})
        emitter.broadcast_project_event("p1", "built", {"task": "t1"}, priority=9)


if __name__ == "__main__":
    main()
