"""Tokens for tests, and the settings of servers that take them."""

from __future__ import annotations

import time
from typing import Any, Final

import jwt

SECRET: Final = "a secret of the tests, long enough for HS256"
GUARDED: Final = {"WSAPP_JWT_SECRET": SECRET}


def mint(sub: str = "ann", lasts: float = 300.0, **claims: Any) -> str:
    """A token of a user, by default for every room to read, good for `lasts` seconds."""
    now = time.time()
    return jwt.encode({"sub": sub, "exp": now + lasts, "iat": now, "rooms": ["*"], **claims}, SECRET, "HS256")


def auth(sub: str = "ann", lasts: float = 300.0, **claims: Any) -> dict[str, Any]:
    """What a client presents at CONNECT."""
    return {"token": mint(sub, lasts, **claims)}
