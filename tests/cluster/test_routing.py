"""Whatever a worker accepts finds the worker that owns it, and what the workers share comes back when it is removed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.clients.fleet import Fleet, fresh, publish
from tests.harness import Server, http, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.node]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers, whose temporary files are in a place of their own."""
    place = tmp_path_factory.mktemp("run")
    with Server(2, env={"XDG_RUNTIME_DIR": str(place)}) as server:
        yield server


def shared(server: Server) -> Path:
    return next(Path(server.env["XDG_RUNTIME_DIR"]).glob("wsapp-*"))


def test_long_urls_over_two_workers(two: Server, fleet: Fleet) -> None:
    """A token with many groups in the query: 12 clients, each with requests to both workers."""
    agent = fresh("long")
    clients = [fleet.npm(two, transport="polling", query={"token": "t" * 30_000}) for _ in range(12)]
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    ids = publish(two, agent, 3)
    for client in clients:
        client.wait_ids(ids)
        assert not client.all("disconnect") and not client.all("connect_error")


def test_a_stream_of_as_many_rooms_as_a_session_may_have(two: Server) -> None:
    rooms = ",".join(f"agent:{uuid.uuid4()}" for _ in range(200))
    path = f"/api/v1/stream?rooms={rooms}"
    assert len(path) > 8192
    with socket.create_connection(("127.0.0.1", two.port), timeout=30) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{two.port}\r\n\r\n".encode())
        assert sock.recv(15).startswith(b"HTTP/1.1 200 OK")


def test_a_url_that_is_too_long_is_told(two: Server) -> None:
    told = http(f"{two.url}/api/v1/stream?rooms={'x' * 70_000}")
    assert told.status == 414
    assert "a request line may have 65536 bytes" in told.text


def test_a_cleaner_of_temporary_files_is_noticed(two: Server, fleet: Fleet) -> None:
    shutil.rmtree(shared(two))
    wait_until(lambda: len(list(shared(two).glob("*.sock"))) == 2 if list(
        Path(two.env["XDG_RUNTIME_DIR"]).iterdir()) else False, "the sockets to be made again")
    agent = fresh("cleaned")
    clients = fleet.many(two, "npm", "polling", 6)
    fleet.each(clients, lambda client: client.subscribe("agent", agent))
    ids = publish(two, agent, 3)
    for client in clients:
        client.wait_ids(ids)
    assert "it is made again" in two.log_tail(1000)


def test_nobody_can_take_the_name_of_the_directory_first(tmp_path: Path) -> None:
    """The name was that of the user and the master."""
    with Server(2, env={"XDG_RUNTIME_DIR": str(tmp_path)}) as server:
        name = shared(server).name
        assert str(psutil.Process(server.process.pid).pid) not in name.split("-")
        assert shared(server).stat().st_mode & 0o777 == 0o700
        server.terminate()
        assert not list(tmp_path.iterdir()), "the master takes along what it made"


def test_a_private_valkey_that_was_killed_is_started_again(fleet: Fleet) -> None:
    with Server(2, redis_url="") as server:
        client = fleet.npm(server)
        client.subscribe("agent", "a")
        [first] = server.companions()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: server.companions() not in ([], [first]), "another one")
        wait_until(server.ready, "the workers to be back")
        assert client.request("subscribe-agent", "b")["ok"]
        assert not client.all("disconnect")
        assert "the private Valkey had ended: started again" in server.log_tail(1000)


def test_max_requests_replaces_a_worker(fleet: Fleet) -> None:
    with Server(1, env={"GUNICORN_CMD_ARGS": "--max-requests 40"}) as server:
        client, agent = fleet.npm(server), fresh("recycled")
        client.subscribe("agent", agent)
        (first,) = server.worker_pids()
        for _ in range(50):
            if server.worker_pids() == [first]:
                server.get("/healthz")
        wait_until(lambda: server.worker_pids() not in ([], [first]), "another worker")
        assert client.wait_for("disconnect")[0].args[1] == 1012
        client.wait_for("connect", 2)
        ids = publish(server, agent, 3)
        client.wait_ids(ids)
        assert "max_requests: after 40 requests" in server.log_tail(1000)
