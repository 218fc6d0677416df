"""What the Dockerfile says of itself that can be tried without an engine: its health check, against real servers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificate import Authority
from tests.harness import ROOT, Server, wait_until
from tests.valkey import free_port

pytestmark = pytest.mark.cluster

NOBODY = f"http://127.0.0.1:{free_port()}"


def healthy(server: Server, **env: str) -> bool:
    """Run the HEALTHCHECK as an engine would: with the container's environment."""
    told = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\])$", (ROOT / "Dockerfile").read_text().replace("\\\n", " "), re.M)
    assert told is not None
    program, *arguments = json.loads(told[1])
    assert program == "python"
    given = {"PATH": os.environ["PATH"], "WEBSOCKET_PORT": str(server.port), "WSAPP_BIND": "127.0.0.1", **env}
    return subprocess.run([sys.executable, *arguments], env=given, check=False, capture_output=True,
                          timeout=30).returncode == 0


def test_healthy_past_a_proxy_and_when_redis_is_away() -> None:
    with Server(1) as server:
        assert healthy(server)
        assert healthy(server, HTTP_PROXY=NOBODY, http_proxy=NOBODY)
        assert server.valkey is not None
        server.valkey.kill()
        assert healthy(server)
        [worker] = server.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        assert not healthy(server)
        os.kill(worker, signal.SIGCONT)
        assert healthy(server)
    assert not healthy(server), "it has ended"


def test_healthy_where_clients_need_a_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    signed = authority.sign("server", 90)
    env = {"WSAPP_TLS_CERTIFICATE": str(signed.certificate), "WSAPP_TLS_KEY": str(signed.key)}
    server = Server(1, env={**env, "WSAPP_TLS_CLIENT_CA": str(authority.path)}, ca=authority.path)
    try:
        server.start(wait=False)  # which would need a certificate itself
        wait_until(lambda: healthy(server, **env), "healthy")
        assert not healthy(server), "no healthy server without TLS answers so"
    finally:
        server.close()
