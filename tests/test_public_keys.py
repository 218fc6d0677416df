"""Files with public keys: what is of use, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from wsapp.errors import SettingsError
from wsapp.public_keys import UnusableKey, algorithm_of, load_public_key

RSA = rsa.generate_private_key(65537, 2048)


def pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


@pytest.mark.parametrize(("key", "algorithm"), [
    (RSA, "RS256"), (ec.generate_private_key(ec.SECP256R1()), "ES256"),
    (ed25519.Ed25519PrivateKey.generate(), "EdDSA")])
def test_the_type_fixes_the_algorithm(key: Any, algorithm: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text(pem(key))
    found, loaded = load_public_key(str(path))
    assert (found, loaded) == (algorithm, key.public_key())
    assert algorithm_of(loaded) == algorithm
    with pytest.raises(UnusableKey):
        algorithm_of(key)


@pytest.mark.parametrize(("text", "told"), [
    ("", "is no public key in PEM .openssl pkey"), ("nonsense", "is no public key in PEM"),
    ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is no public key in PEM"),
    ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is no public key in PEM"),
    (RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), "must not have: openssl pkey -in"),
    (pem(rsa.generate_private_key(65537, 1024)), "has 1024 bits: RS256 needs 2048"),
    (pem(ec.generate_private_key(ec.SECP384R1())), "is of no kind used here"),
    (pem(dsa.generate_private_key(2048)), "is of no kind used here")])
def test_what_is_of_no_use_is_said_in_a_line(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text(text)
    with pytest.raises(SettingsError, match=told) as caught:
        load_public_key(str(path))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.pem", tmp_path):
        with pytest.raises(SettingsError, match="give the path of a PEM file"):
            load_public_key(str(path))
