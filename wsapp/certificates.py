"""The server's own TLS: certificate, key and what is spoken with them.

gunicorn's master reads the files, once at the start and again on SIGHUP, and its workers inherit the result: they need
no right to read the key, and a client may resume a TLS session with any of them (one context, one ticket key).
"""

from __future__ import annotations

import contextlib
import ssl
import time
from pathlib import Path
from typing import Final

from wsapp.errors import SettingsError
from wsapp.settings import Settings

# TLS 1.2 with forward secrecy and authenticated encryption only (RFC 9325 section 4.2); 1.3 knows nothing else.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
SOON: Final = 14 * 86_400.0  # seconds of validity below which it is told
PARTIAL_CHAIN: Final = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN: a certificate may stand for itself
EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED
NOT_YET: Final = 9  # X509_V_ERR_CERT_NOT_YET_VALID


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """What WSAPP_TLS_CERTIFICATE, WSAPP_TLS_KEY and WSAPP_TLS_CLIENT_CA make; None without a certificate.
    Raises SettingsError, one line that names the file."""
    certificate, key, clients = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None:
        return None
    _require("WSAPP_TLS_CERTIFICATE", certificate, "CERTIFICATE")
    named = "WSAPP_TLS_CERTIFICATE" if key is None else "WSAPP_TLS_KEY"
    if b"ENCRYPTED" in _require(named, key or certificate, "PRIVATE KEY"):
        raise SettingsError(f"{named}={key or certificate!r} has a passphrase: take it off (openssl pkey)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise SettingsError(_told(error, named, certificate, key)) from None
    if clients is not None:
        _trust(context, clients)
    return context


def _require(name: str, path: str, kind: str) -> bytes:
    """The bytes of a PEM file that has such a block."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{name}={path!r} {error.strerror}") from None
    if f"{kind}-----".encode() not in content:
        hint = " (WSAPP_TLS_KEY names another file for the key)" if kind == "PRIVATE KEY" else ""
        raise SettingsError(f"{name}={path!r} has no {kind.lower()} in PEM{hint}")
    return content


def _told(error: ssl.SSLError, named: str, certificate: str, key: str | None) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"{named}={key or certificate!r} is not the key of WSAPP_TLS_CERTIFICATE={certificate!r}"
    why = (error.reason or str(error)).lower().replace("_", " ")
    return f"WSAPP_TLS_CERTIFICATE={certificate!r} with {named}={key or certificate!r} cannot be used: {why}"


def _trust(context: ssl.SSLContext, clients: str) -> None:
    _require("WSAPP_TLS_CLIENT_CA", clients, "CERTIFICATE")
    try:
        context.load_verify_locations(clients)
    except ssl.SSLError as error:
        raise SettingsError(f"WSAPP_TLS_CLIENT_CA={clients!r} cannot be used: {error.reason or error}") from None
    context.verify_mode = ssl.CERT_REQUIRED


def trouble_with(settings: Settings) -> str | None:
    """What a visitor's browser will say of the certificate: that it has expired, is not yet valid, or will soon.
    Found out as the visitor would, by shaking hands.  None when there is nothing to tell."""
    if settings.tls_certificate is None:
        return None
    name = f"WSAPP_TLS_CERTIFICATE={settings.tls_certificate!r}"
    try:
        until = _valid_until(settings.tls_certificate, settings.tls_key)
    except ssl.SSLCertVerificationError as error:
        when = {EXPIRED: "has expired", NOT_YET: "is not yet valid"}.get(error.verify_code)
        return f"{name} {when}: clients will refuse it" if when else f"{name}: {error.verify_message}"
    left = until - time.time()
    return f"{name} expires in {left / 86_400:.0f} days" if left < SOON else None


def _valid_until(certificate: str, key: str | None) -> float:
    """Seconds since the epoch.  Raises ssl.SSLCertVerificationError."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate, key)
    client.check_hostname = False
    client.load_verify_locations(certificate)
    client.verify_flags |= ssl.VerifyFlags(PARTIAL_CHAIN)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here, there = server.wrap_bio(to_server, to_client, True), client.wrap_bio(to_client, to_server)
    for side in (there, here, there):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    found = there.getpeercert() or {}
    return ssl.cert_time_to_seconds(str(found["notAfter"]))
