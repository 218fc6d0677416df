"""gunicorn.conf.py under libfaketime, for `tests.apps.moved_clocks`.

libfaketime 0.9.10 refuses a sleep of the monotonic clock that it was told to leave alone (clock_nanosleep: EINVAL).
Only the master sleeps by it: workers sleep by gevent's loop.
"""

import select
import time
from pathlib import Path


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep  # type: ignore[assignment]
exec(compile(Path("gunicorn.conf.py").read_text(), "gunicorn.conf.py", "exec"))  # noqa: S102
