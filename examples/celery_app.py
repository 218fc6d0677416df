"""An agent that runs as a Celery task and is watched while it runs.

    export REDIS_URL=redis://localhost:6379/0        # the same for the server, the worker and this script
    celery -A examples.celery_app worker --concurrency 2 --loglevel info
    python -m examples.celery_app t1                 # queues one task
    wsapp tail agent:researcher task:t1              # or open the server's page

Without a Redis for Celery the queue can be a folder, `CELERY_FOLDER=/some/folder`; the events then still go to the
Redis of the server, which is found by its port when REDIS_URL is not set.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

from celery import Celery, Task

from wsapp import BrokerUnavailable, Emitter


def _queue() -> dict[str, Any]:
    folder = os.environ.get("CELERY_FOLDER")
    if not folder:
        return {"broker_url": os.environ.get("REDIS_URL", "redis://localhost:6379/0")}
    Path(folder).mkdir(parents=True, exist_ok=True)
    # In and out are the same folder: the sender's out is the worker's in.
    return {"broker_url": "filesystem://",
            "broker_transport_options": {"data_folder_in": folder, "data_folder_out": folder,
                                         "control_folder": str(Path(folder) / "control")}}


app = Celery("examples.celery_app")
app.conf.update(_queue(), task_ignore_result=True, broker_connection_retry_on_startup=True)


@cache
def emitter() -> Emitter:
    """One for each worker process, made after the fork."""
    return Emitter()


@app.task(bind=True, autoretry_for=(BrokerUnavailable,), retry_backoff=True, max_retries=5)
def research(self: Task, task_id: str, steps: int = 5) -> None:
    """Pretends to think.  A retry publishes nothing twice: each event's key names its task and step."""
    about = {"taskId": task_id, "agentId": "researcher"}
    for step in range(steps):
        emitter().broadcast_agent_thought({**about, "thought": f"looking at source {step + 1} of {steps}"},
                                          also_to=[f"task:{task_id}"], key=f"{self.request.id}:thought:{step}")
        emitter().broadcast_task_update({**about, "status": "in_progress", "progress": 100 * step // steps},
                                        key=f"{self.request.id}:task:{step}")
        time.sleep(0.2)
    emitter().broadcast_task_update({**about, "status": "completed", "progress": 100},
                                    key=f"{self.request.id}:done")


if __name__ == "__main__":
    from examples.celery_app import research as queued  # by the name that the worker knows

    print(queued.delay(sys.argv[1] if len(sys.argv) > 1 else "t1").id)
