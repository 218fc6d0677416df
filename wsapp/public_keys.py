"""Public keys that tokens may be signed for.  A key's type fixes the one algorithm it is used with (RFC 8725 section
3.1).

Apart from `wsapp.auth`, since gunicorn's master asks, too: what that imports must not be imported before gevent has
patched it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from wsapp.errors import SettingsError

MIN_RSA: Final = 2048  # bits (RFC 7518 section 3.3)


class UnusableKey(ValueError):
    """A key of a kind or size that is not used here."""


def algorithm_of(key: Any) -> str:
    """RS256, ES256 or EdDSA, by the type of a public key.  Raises UnusableKey."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA:
            raise UnusableKey(f"has {key.key_size} bits: RS256 needs {MIN_RSA} (openssl genrsa {MIN_RSA})")
        return "RS256"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return "ES256"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "EdDSA"
    raise UnusableKey("is of no kind used here: RSA, EC P-256 or Ed25519, public")


def load_public_key(path: str) -> tuple[str, Any]:
    """The key of a PEM file and its algorithm.  Raises SettingsError, one line with the fix in it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    where = f"WSAPP_JWT_PUBLIC_KEY_FILE={path!r}"
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{where} {error.strerror}: give the path of a PEM file") from None
    if b"PRIVATE KEY-----" in text:
        raise SettingsError(f"{where} is a private key, which the server must not have: "
                            f"openssl pkey -in {path} -pubout")
    try:
        key = load_pem_public_key(text)
        return algorithm_of(key), key
    except UnusableKey as error:
        raise SettingsError(f"{where} {error}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"{where} is no public key in PEM (openssl pkey -in private.pem -pubout)") from None
