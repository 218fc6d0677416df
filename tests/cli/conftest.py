"""The command as a user has it: a process of its own, beside a real Valkey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.valkey import Valkey
from wsapp.core.ports import HistoryQuery
from wsapp.emitter import Emitter

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = ("WSAPP_", "REDIS_URL", "WEBSOCKET_", "MAX_", "PING_", "WEB_CONCURRENCY")


class Shell:
    """Runs `wsapp ...` with nothing of the environment's settings but what is given."""

    def __init__(self, environ: dict[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.environ = {**kept, "PYTHONPATH": str(ROOT), "WEBSOCKET_PORT": "1", **environ}

    def start(self, *args: str, **more: Any) -> subprocess.Popen[bytes]:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environ = {**self.environ, **more.pop("environ", {})}
        return subprocess.Popen([sys.executable, "-m", "wsapp", *args], env=environ, **{**options, **more})

    def __call__(self, *args: str, **more: Any) -> subprocess.CompletedProcess[str]:
        process = self.start(*args, **more)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, (out or b"").decode(), (err or b"").decode())


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
def wsapp(valkey: Valkey, request: pytest.FixtureRequest) -> Shell:
    return Shell({"REDIS_URL": valkey.url, "WSAPP_KEY_PREFIX": f"{abs(hash(request.node.nodeid))}:"})


@pytest.fixture
def emitter(wsapp: Shell) -> Iterator[Emitter]:
    """It reads as much as any test publishes: what a reader's own limits exclude, it does not see."""
    with Emitter(wsapp.environ["REDIS_URL"], prefix=wsapp.environ["WSAPP_KEY_PREFIX"], timeout=5.0,
                 history_size=100_000, history_bytes=100_000_000) as emitter:
        yield emitter


@pytest.fixture
def history(emitter: Emitter) -> Callable[[str], list[dict[str, Any]]]:
    """The data of all that is kept in a room."""
    def read(room: str) -> list[dict[str, Any]]:
        page = emitter._backend.broker.read([HistoryQuery(room, limit=100_000)])[0]
        return [json.loads(publication.body) for publication in page.publications]
    return read
