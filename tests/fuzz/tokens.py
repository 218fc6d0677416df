"""Tokens and keys: an identity that was signed for, or TokenRefused; API keys and key sets likewise ValueError."""

from __future__ import annotations

import logging
from typing import Any

import jwt

from tests.tokens import SECRET
from wsapp.auth import Authenticator, TokenRefused, read_key_set
from wsapp.core.api_keys import parse_key
from wsapp.core.events import strict_loads
from wsapp.settings import load_settings

NOW = 1_790_000_000.0
JUDGE = Authenticator(load_settings({"WSAPP_JWT_SECRET": SECRET}, {}), clock=lambda: NOW)
SIGNED = jwt.encode({"sub": "ann", "exp": NOW + 60}, SECRET, "HS256").encode()
logging.getLogger("wsapp.auth").disabled = True

SEEDS = [
    b"\x00" + SIGNED, b"\x00" + SIGNED[:-1], b"\x00e30.e30.", b"\x00eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.",
    b"\x00eyJhbGciOlsiUlMyNTYiXX0.e30.",  # {"alg":["RS256"]}
    b'\x01{"sub":"ann","exp":1790000060,"rooms":{"agent:*":["read","publish"]},"rate":5,"jti":"x","sid":"y"}',
    b'\x01{"sub":"ann","exp":1790000060,"rooms":["*"],"nbf":1,"iat":1,"role":"r"}', b'\x01{"sub":7,"exp":"soon"}',
    b'\x01{"sub":"a","exp":1e400}', b'\x01{"sub":"a","exp":99999999999999999999999999}', b'\x01{"exp":true,"sub":"a"}',
    b'\x02{"keys":[{"kty":"oct","k":"YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE","alg":"HS256","kid":"1"}]}',
    b'\x02{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"OKP","crv":"Ed25519","x":"AA"}]}',
    b'\x02{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},7,null]}', b"\x03name:publish+read:" + b"a" * 64,
]


def check(data: bytes) -> None:
    if not data:
        return
    kind, data = data[0] % 4, data[1:]
    if kind == 0:
        _judged(data.decode("utf-8", "surrogateescape"), data == SIGNED)
    elif kind == 1:
        _claimed(data)
    else:
        read: Any = read_key_set if kind == 2 else lambda text: parse_key(text.decode())
        try:
            read(data)
        except (ValueError, RecursionError):
            return


def _judged(token: str, good: bool) -> None:
    try:
        identity = JUDGE.judge(token)
    except TokenRefused:
        assert not good
        return
    assert identity.user_id == "ann"


def _claimed(data: bytes) -> None:
    """Claims of all kinds under a good signature."""
    try:
        claims = strict_loads(data.decode())
        token = jwt.encode(claims, SECRET, "HS256")
    except (ValueError, TypeError, RecursionError, OverflowError, jwt.PyJWTError):
        return
    try:
        identity = JUDGE.judge(token)
    except TokenRefused:
        return
    assert identity.user_id
    identity.allows("read", "agent:a")
    identity.revocable()
