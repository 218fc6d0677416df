"""Keys of the server API: what one may do, how its secret is told and kept.

A secret is shown once, when it is made; what is kept is its SHA-256.  That needs no salt and no slow hash: the
secret has 192 random bits, so there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from wsapp.errors import BrokerUnavailable

SCOPES: Final = ("publish", "read", "drain", "admin")
PREFIX: Final = "wsapp_"  # so that a leaked one can be found by scanners
TABLE_AGE: Final = 1.0  # seconds until a key that was revoked elsewhere is noticed
MAX_LOOKUPS: Final = 10  # extra reads for unknown secrets within `TABLE_AGE`
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key.  `digest` is the SHA-256 of its secret in hex, `created` in seconds since 1970 (0: by setting)."""

    name: str
    scopes: frozenset[str]
    digest: str
    created: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}:{'+'.join(sorted(self.scopes))}:{self.digest[:8]}..."


class ApiKeys(Protocol):
    """Where keys are kept.  Raises BrokerUnavailable."""

    def add(self, key: ApiKey) -> bool:
        """Keep a key; False when there is one of that name."""
        ...

    def remove(self, name: str) -> bool:
        """Forget a key; False when there was none."""
        ...

    def all(self) -> list[ApiKey]:
        """Every key, by name."""
        ...


def digest_of(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def check_name(name: str) -> str:
    """A key's name.  Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a key: 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def check_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes of a key, at least one.  Raises ValueError."""
    found = frozenset(scopes)
    wrong = sorted(found - set(SCOPES))
    if wrong or not found:
        raise ValueError(f"{wrong[0] if wrong else 'nothing'!r} is no scope: {', '.join(SCOPES)}")
    return found


def make_key(name: str, scopes: Iterable[str], now: float) -> tuple[ApiKey, str]:
    """A new key and its secret.  Raises ValueError."""
    secret = PREFIX + secrets.token_urlsafe(24)
    return ApiKey(check_name(name), check_scopes(scopes), digest_of(secret), now), secret


def parse_key(text: str) -> ApiKey:
    """`name:scope+scope:sha256hex`.  Raises ValueError."""
    name, _, rest = text.strip().partition(":")
    scopes, _, digest = rest.partition(":")
    if not _DIGEST.fullmatch(digest.lower()):
        raise ValueError("has a key that is not name:scope+scope:sha256hex")
    return ApiKey(check_name(name), check_scopes(scopes.split("+")), digest.lower())


class KeyTable:
    """Judges secrets: the keys of the settings, and those that are kept, read once a second while they are in use.

    A secret that is not among them is looked up at once, because its key may be a new one.  Such lookups are bounded
    (`MAX_LOOKUPS`), so that guesses cost Redis nothing more.  While Redis is away the keys it last told count.
    `clock` gives seconds.
    """

    def __init__(self, configured: Iterable[ApiKey], store: ApiKeys,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._configured = {key.digest: key for key in configured}
        self._store, self._clock = store, clock
        self._kept: dict[str, ApiKey] = {}
        self._read_at: float | None = None
        self._lookups = 0  # since `_read_at`

    def find(self, secret: str) -> ApiKey | None:
        """The key of a secret; None when it is none.  Raises BrokerUnavailable when the kept ones were never read."""
        digest = digest_of(secret)
        found = self._configured.get(digest) or self._stored().get(digest)
        if found is None and self._lookups < MAX_LOOKUPS:
            self._lookups += 1
            found = self._read().get(digest)
        return found

    def empty(self) -> bool:
        """Whether there is no key at all.  Raises BrokerUnavailable as `find` does."""
        return not self._configured and not self._stored()

    def _stored(self) -> dict[str, ApiKey]:
        now = self._clock()
        if self._read_at is None or now - self._read_at >= TABLE_AGE:
            self._read()
            self._read_at, self._lookups = now, 0
        return self._kept

    def _read(self) -> dict[str, ApiKey]:
        try:
            self._kept = {key.digest: key for key in self._store.all()}
        except BrokerUnavailable:
            if self._read_at is None:
                raise
        return self._kept
