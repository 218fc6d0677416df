"""What workers know of each other's ports."""

from __future__ import annotations

import hashlib
import ssl
from typing import NamedTuple, Protocol


class Listening(NamedTuple):
    """Where this server listens: its TCP addresses, and the certificates that it may show there (SHA-256 of the DER
    form, in hex).  Without certificates it speaks plain HTTP."""

    addresses: tuple[tuple[str, int], ...] = ()
    certificates: tuple[str, ...] = ()


class Route(NamedTuple):
    """The way to a worker of another host: any worker that listens there passes the connection to the right one."""

    host: str
    port: int
    certificates: frozenset[str] = frozenset()


class ForwardingOptions(NamedTuple):
    """`most` requests and WebSockets at a time; an answer may take `patience` seconds, a piece of a WebSocket
    `write_timeout`."""

    most: int = 1000
    patience: float = 55.0
    write_timeout: float = 30.0


class Routes(Protocol):
    """What a service knows of the workers that share its Redis."""

    @property
    def options(self) -> ForwardingOptions:
        """The limits of its settings."""
        ...

    @property
    def secret(self) -> bytes:
        """Shared by all workers, and by nobody else."""
        ...

    def find(self, token: str) -> Route | None:
        """The way to the worker with this token; None when it is gone, is of this host or cannot be reached.  May
        wait for Redis (WSAPP_BROKER_TIMEOUT)."""
        ...


def fingerprint(certificate: bytes) -> str:
    """Names a certificate in DER form."""
    return hashlib.sha256(certificate).hexdigest()


def client_context(certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """For connections to other workers, which are known by the fingerprint in their lease, not by a name.  The files
    are shown to a server that asks for client certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def certificate_of(server: ssl.SSLContext) -> str:
    """The fingerprint of the certificate that a context shows, seen by a handshake with itself: the file may have
    been replaced since it was read.  Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client_context().wrap_bio(to_client, to_server)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (ours, theirs, ours):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = ours.getpeercert(binary_form=True)
    assert shown is not None
    return fingerprint(shown)
