"""What the master makes of the files, and what it says of them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.certificate import Authority
from wsapp.certificates import server_context, trouble_with
from wsapp.errors import SettingsError
from wsapp.settings import Settings, load_settings


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(certificate: Path | None = None, key: Path | None = None, clients: Path | None = None) -> Settings:
    given = {"WSAPP_TLS_CERTIFICATE": certificate, "WSAPP_TLS_KEY": key, "WSAPP_TLS_CLIENT_CA": clients}
    return load_settings({name: str(path) for name, path in given.items() if path})


def refused(certificate: Path, key: Path | None = None, clients: Path | None = None) -> str:
    with pytest.raises(SettingsError) as told:
        server_context(settings(certificate, key, clients))
    assert "\n" not in str(told.value)
    return str(told.value)


def test_no_certificate_no_tls() -> None:
    assert server_context(settings()) is None
    assert trouble_with(settings()) is None


def test_modern_and_without_trouble(authority: Authority) -> None:
    given = settings(*authority.sign("server"))
    context = server_context(given)
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert all(cipher["aead"] for cipher in context.get_ciphers())
    assert context.verify_mode == ssl.CERT_NONE
    assert trouble_with(given) is None


def test_both_in_one_file(authority: Authority, tmp_path: Path) -> None:
    signed = authority.sign("server")
    both = tmp_path / "both.pem"
    both.write_bytes(signed.key.read_bytes() + signed.certificate.read_bytes() + authority.path.read_bytes())
    given = settings(both)
    assert server_context(given) is not None
    assert trouble_with(given) is None


def test_clients_must_have_one_too(authority: Authority) -> None:
    context = server_context(settings(*authority.sign("server"), authority.path))
    assert context is not None and context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(("days", "told"), [(-1, "has expired"), (500, "is not yet valid"), (3, "expires in 3 days")])
def test_what_visitors_would_say(authority: Authority, days: float, told: str) -> None:
    given = settings(*authority.sign("server", days))
    assert server_context(given) is not None  # served all the same
    assert told in str(trouble_with(given))


def test_what_is_wrong_is_told_in_one_line(authority: Authority, tmp_path: Path) -> None:
    one, other = authority.sign("one"), authority.sign("other")
    locked = authority.sign("locked", passphrase=b"secret")
    nowhere, empty = tmp_path / "nowhere", tmp_path / "empty"
    empty.touch()
    torn = tmp_path / "torn"
    torn.write_bytes(one.certificate.read_bytes().replace(b"M", b"#", 5))
    assert f"WSAPP_TLS_CERTIFICATE='{nowhere}' No such file" in refused(nowhere)
    assert f"WSAPP_TLS_KEY='{nowhere}' No such file" in refused(one.certificate, nowhere)
    assert "WSAPP_TLS_CERTIFICATE" in refused(tmp_path) and "directory" in refused(tmp_path)
    assert "has no certificate in PEM" in refused(empty, one.key)
    assert "has no private key in PEM (WSAPP_TLS_KEY" in refused(one.certificate)
    assert f"WSAPP_TLS_KEY='{other.key}' is not the key of" in refused(one.certificate, other.key)
    assert "has a passphrase" in refused(*locked)
    assert "cannot be used" in refused(torn, one.key)
    assert f"WSAPP_TLS_CLIENT_CA='{empty}' has no certificate" in refused(one.certificate, one.key, empty)
    assert "WSAPP_TLS_CLIENT_CA" in refused(one.certificate, one.key, torn)


@pytest.mark.parametrize("name", ["WSAPP_TLS_KEY", "WSAPP_TLS_CLIENT_CA"])
def test_nothing_without_a_certificate(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is of no use without WSAPP_TLS_CERTIFICATE"):
        load_settings({name: "some.pem"})
