"""`tests.apps.host` whose workers have wall clocks of their own: libfaketime reads the offset of each from a file that
is named after its pid.  The monotonic clock stays."""

from __future__ import annotations

import os

os.environ["FAKETIME_TIMESTAMP_FILE"] = os.path.join(os.environ["CLOCKS_OF_WORKERS"], str(os.getpid()))

from tests.apps.host import app, server

__all__ = ["app", "server"]
