"""How workers know each other's certificates."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.certificate import Authority
from wsapp.transport.hosts.route import certificate_of, client_context, fingerprint


def test_the_certificate_that_a_context_shows(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.sign("one"), authority.sign("other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(one.certificate, one.key)
    der = x509.load_pem_x509_certificate(one.certificate.read_bytes()).public_bytes(Encoding.DER)
    one.certificate.write_bytes(other.certificate.read_bytes())  # the file has been renewed, the server not yet
    assert certificate_of(context) == fingerprint(der) == hashlib.sha256(der).hexdigest()


def test_also_where_clients_need_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    signed = authority.sign("one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)
    context.load_verify_locations(authority.path)
    context.verify_mode = ssl.CERT_REQUIRED
    assert len(certificate_of(context)) == 64
    assert client_context(str(signed.certificate), str(signed.key)).verify_mode is ssl.CERT_NONE
