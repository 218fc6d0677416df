from __future__ import annotations

import subprocess
import sys

import pytest

from wsapp.backends import Limits, open_backend
from wsapp.backends.memory import MemoryBackend
from wsapp.backends.redis_broker import RedisBackend
from wsapp.errors import SettingsError


@pytest.mark.parametrize("url", [None, "memory://"])
def test_memory(url: str | None) -> None:
    assert isinstance(open_backend(url, Limits(), channel="c"), MemoryBackend)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "valkey://127.0.0.1:1", "unix:///nowhere"])
def test_redis_without_connecting(url: str) -> None:
    backend = open_backend(url, Limits(), channel="c")
    assert isinstance(backend, RedisBackend)
    backend.close()


def test_a_wrong_url() -> None:
    with pytest.raises(SettingsError, match="redis://host:port/0"):
        open_backend("amqp://x", Limits(), channel="c")


def test_memory_imports_no_redis() -> None:
    code = ("import sys; from wsapp.backends import Limits, open_backend; open_backend(None, Limits(), channel='c');"
            "sys.exit(int('redis' in sys.modules or 'gevent' in sys.modules))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
