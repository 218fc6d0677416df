"""Our worker without a gunicorn master, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificate import Authority
from tests.harness import OURS, ROOT, http, wait_until
from tests.valkey import free_port

SCRIPT = """
from gevent import monkey; monkey.patch_all()
import sys
from wsapp.transport.alone import Alone

def application(environ, start_response):
    if environ["PATH_INFO"] == "/stop":
        alone.stop()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.url_scheme"].encode()]

alone = Alone(application, sys.argv[1], access_log=True, certfile=sys.argv[2] or None, keyfile=sys.argv[3] or None)
alone.run()
print("ended", flush=True)
"""


def start(tmp_path: Path, bind: str, *more: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, bind, *(*more, "", "")[:2]], cwd=tmp_path, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env={**clean, "PYTHONPATH": str(ROOT), "WEB_CONCURRENCY": "4"})


def answered(url: str, ca: Path | None = None) -> str:
    try:
        return http(url, ca=ca).text
    except OSError:
        return ""


@pytest.mark.parametrize("how", ["stop", "SIGTERM", "SIGINT"])
def test_it_serves_until_it_is_told_to_stop(tmp_path: Path, how: str) -> None:
    port = free_port()
    process = start(tmp_path, f"127.0.0.1:{port}")
    wait_until(lambda: answered(f"http://127.0.0.1:{port}/") == "http", "an answer")
    if how == "stop":
        http(f"http://127.0.0.1:{port}/stop")
    else:
        process.send_signal(getattr(signal, how))
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert told.endswith("ended\n")
    assert '"GET / HTTP/1.1" 200' in told


def test_with_a_certificate_it_speaks_tls(tmp_path: Path) -> None:
    authority, port = Authority(tmp_path), free_port()
    signed = authority.sign("alone")
    process = start(tmp_path, f"127.0.0.1:{port}", str(signed.certificate), str(signed.key))
    wait_until(lambda: answered(f"https://127.0.0.1:{port}/", authority.path) == "https", "an answer over TLS")
    process.terminate()
    assert process.wait(30) == 0


def test_an_address_in_use_ends_the_process(tmp_path: Path) -> None:
    port = free_port()
    first = start(tmp_path, f"127.0.0.1:{port}")
    wait_until(lambda: answered(f"http://127.0.0.1:{port}/"), "an answer")
    second = start(tmp_path, f"127.0.0.1:{port}")
    told, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "Connection in use" in told
    first.terminate()
    assert first.wait(30) == 0
