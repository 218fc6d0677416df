"""Who somebody is and what they may do: JSON Web Tokens (RFC 7519) and the rights in them.

A key's type fixes the one algorithm it may be used with, so that a token cannot choose (RFC 8725 section 3.1):
secret -> HS256, RSA -> RS256, EC P-256 -> ES256, Ed25519 -> EdDSA.  `none` has no key and is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
from jwt.exceptions import InvalidKeyError

from wsapp.core.patterns import matches
from wsapp.core.ports import ANONYMOUS
from wsapp.core.throttle import MIN_RATE
from wsapp.errors import ErrorCode, RequestError, SettingsError
from wsapp.public_keys import algorithm_of, load_public_key
from wsapp.settings import MAX_RATE, MIN_SECRET, SPECS, Settings, auth_mode, has_keys, require_decision

log = logging.getLogger(__name__)

ACTIONS: Final = frozenset({"read", "publish", "presence"})
MAX_TOKEN: Final = 8192  # characters
MAX_USER: Final = 200  # characters of a user id
MAX_PATTERNS: Final = 1000
REFETCH_AFTER: Final = 10.0  # seconds between two fetches of the key set at least
FRESH_FOR: Final = 300.0  # seconds a fetched key set is believed: a withdrawn key stops working within it
FETCH_TIMEOUT: Final = 5.0  # seconds
MAX_KEY_SET: Final = 1_000_000  # bytes

KEYS: Final = "WSAPP_JWT_SECRET, WSAPP_JWT_PUBLIC_KEY_FILE or WSAPP_JWT_JWKS"

Grants = tuple[tuple[str, frozenset[str]], ...]


class TokenRefused(RequestError):
    """A token that is missing, wrong, expired or revoked; `code` says which, the message never quotes it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is.  `expires` is in seconds since the epoch, leeway included (inf: never); `grants` are patterns
    and what may be done in the rooms that match (None: no pattern limits it); `rate` in events per second."""

    user_id: str | None = None
    expires: float = math.inf
    grants: Grants | None = None
    role: str | None = None
    rate: float | None = None
    token_id: str | None = None
    login: str | None = None
    issued: float | None = None

    def allows(self, action: str, room: str) -> bool:
        """Whether `read`, `publish` or `presence` is granted in a room."""
        return self.grants is None or any(action in actions and matches(pattern, room)
                                          for pattern, actions in self.grants)

    def revocable(self) -> dict[str, str]:
        """The names under which this identity can be revoked, by kind."""
        named = {"jti": self.token_id, "user": self.user_id, "session": self.login}
        return {kind: revocation(kind, name) for kind, name in named.items() if name}


NOBODY: Final = Identity()


def revocation(kind: str, name: str) -> str:
    """How a revocation is stored: a digest, since a session id is a secret."""
    return f"{kind}:{hashlib.blake2b(name.encode(errors='surrogatepass'), digest_size=20).hexdigest()}"


class Key(NamedTuple):
    """A key with the algorithm that its type fixes."""

    id: str | None
    algorithm: str
    key: Any


def _problem(message: str, code: ErrorCode = ErrorCode.TOKEN_INVALID) -> TokenRefused:
    return TokenRefused(code, message)


# ---- keys


def _secret(settings: Settings) -> list[Key]:
    if settings.jwt_secret is None:
        return []
    return [Key(None, "HS256", settings.jwt_secret.encode())]


def _public_key(settings: Settings) -> list[Key]:
    path = settings.jwt_public_key_file
    return [] if path is None else [Key(None, *load_public_key(path))]


def read_key_set(text: bytes | str) -> list[Key]:
    """The usable keys of a JWK set (RFC 7517).  Those for other uses, of other kinds or with another algorithm than
    their type's are left out.  Raises ValueError when it is no JWK set."""
    data = json.loads(text)
    if not isinstance(data, dict) or not isinstance(data.get("keys"), list):
        raise ValueError("not a JWK set: an object with a list `keys`")
    keys = []
    for entry in data["keys"]:
        try:
            keys.append(_read_key(entry))
        except (jwt.PyJWTError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("a key of the key set is left out: %s", error)
    return keys


def _read_key(entry: Mapping[str, Any]) -> Key:
    kind, curve = entry.get("kty"), entry.get("crv")
    if entry.get("use", "sig") != "sig":
        raise InvalidKeyError("it is not for signatures")
    found = {"oct": "HS256", "RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}.get(str(kind))
    if found is None or entry.get("alg", found) != found or "d" in entry:
        raise InvalidKeyError(f"{kind} {curve or ''} with alg={entry.get('alg')} is not used here")
    key = jwt.PyJWK(dict(entry), algorithm=found).key
    if kind == "oct":
        if len(key) < MIN_SECRET:
            raise InvalidKeyError(f"a secret needs {MIN_SECRET} bytes")
    elif algorithm_of(key) != found:
        raise InvalidKeyError(f"{kind} {curve or ''} is not used here")
    id = entry.get("kid")
    return Key(id if isinstance(id, str) else None, found, key)


class KeySet:
    """A JWK set behind a URL or in a file: fetched when first needed, again when it has become old, and when a token
    names a key that is not in it, at most every ten seconds."""

    def __init__(self, place: str, fetch: Callable[[str], bytes], clock: Callable[[], float] = time.monotonic) -> None:
        self._place, self._fetch, self._clock = place, fetch, clock
        self._keys: list[Key] | None = None
        self._fetched = -math.inf  # the last success
        self._tried = -math.inf
        self._lock = threading.Lock()

    def keys(self, id: str | None) -> list[Key]:
        """The keys that a token naming `id` may have been signed with.  Raises TokenRefused (`keys_unavailable`)
        when there never was a key set."""
        if self._missing(id):
            with self._lock:
                if self._missing(id) and self._clock() - self._tried >= REFETCH_AFTER:
                    self._refresh()
        if self._keys is None:
            raise _problem("the keys for tokens could not be fetched; try again", ErrorCode.KEYS_UNAVAILABLE)
        return [key for key in self._keys if id is None or key.id is None or key.id == id]

    def _missing(self, id: str | None) -> bool:
        if self._keys is None or self._clock() - self._fetched >= FRESH_FOR:
            return True
        return id is not None and all(key.id != id for key in self._keys)

    def _refresh(self) -> None:
        self._tried = self._clock()
        try:
            self._keys = read_key_set(self._fetch(self._place))
            self._fetched = self._clock()
        except (OSError, ValueError) as error:
            log.warning("the key set of WSAPP_JWT_JWKS could not be read: %s", error)


def fetch(place: str) -> bytes:
    """The contents of a file or an http(s) URL.  Raises OSError or ValueError."""
    if not place.startswith(("https://", "http://")):
        return Path(place.removeprefix("file://")).read_bytes()
    request = urllib.request.Request(place, headers={"Accept": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=FETCH_TIMEOUT) as answer:  # noqa: S310
        text: bytes = answer.read(MAX_KEY_SET + 1)
    if len(text) > MAX_KEY_SET:
        raise ValueError(f"it has more than {MAX_KEY_SET} bytes")
    return text


# ---- tokens


class Authenticator:
    """Judges tokens by the settings `jwt_*`.  `clock` gives seconds since the epoch."""

    def __init__(self, settings: Settings, *, fetch: Callable[[str], bytes] = fetch,
                 clock: Callable[[], float] = time.time) -> None:
        self._static = [*_secret(settings), *_public_key(settings)]
        self._set = KeySet(settings.jwt_jwks, fetch) if settings.jwt_jwks else None
        self._audience, self._issuer, self._leeway = settings.jwt_audience, settings.jwt_issuer, settings.jwt_leeway
        self._default = tuple((pattern, frozenset({"read"})) for pattern in settings.token_rooms)
        self._clock = clock

    def judge(self, token: object) -> Identity:
        """The identity in a token.  Raises TokenRefused with `token_missing`, `token_invalid`, `token_expired` or
        `keys_unavailable`."""
        if token is None or token == "":
            raise _problem("a token is needed: auth {token: <JWT>}", ErrorCode.TOKEN_MISSING)
        if not isinstance(token, str) or len(token) > MAX_TOKEN:
            raise _problem(f"a token is a string of at most {MAX_TOKEN} characters")
        return self._identity(self._claims(token))

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _problem("the token is not a JWT") from None
        problem = _problem("the token's signature is by no key known here")
        for key in self._candidates(header):
            try:
                return self._decode(token, key)
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
                raise _problem(f"the token is not valid: {type(error).__name__.removesuffix('Error')}") from None
        raise problem

    def _candidates(self, header: Mapping[str, Any]) -> Iterable[Key]:
        """Keys whose own algorithm is the one the token names."""
        id, algorithm = header.get("kid"), header.get("alg")
        keys = list(self._static)
        if self._set is not None:
            keys += self._set.keys(id if isinstance(id, str) else None)
        found = [key for key in keys if key.algorithm == algorithm]
        if not found and algorithm not in [key.algorithm for key in keys]:  # anything JSON: a set would hash it
            raise _problem("the token's algorithm is not that of a key known here")
        return found

    def _decode(self, token: str, key: Key) -> dict[str, Any]:
        # Times are judged below, by a clock that tests can set.
        return jwt.decode(token, key.key, algorithms=[key.algorithm], audience=self._audience, issuer=self._issuer,
                          options={"require": ["sub", "exp"], "verify_exp": False, "verify_nbf": False,
                                   "verify_iat": False, "verify_aud": self._audience is not None})

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        now, expires = self._clock(), _time(claims, "exp")
        begins, issued = _time(claims, "nbf"), _time(claims, "iat")
        assert expires is not None
        if now >= expires + self._leeway:
            raise _problem("the token has expired", ErrorCode.TOKEN_EXPIRED)
        if begins is not None and now < begins - self._leeway:
            raise _problem("the token is not valid yet (nbf)")
        if issued is not None and now < issued - self._leeway:
            raise _problem("the token was issued in the future (iat)")
        rate = claims.get("rate")
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float))
                                 or not MIN_RATE <= rate <= MAX_RATE):
            raise _problem(f"the token's rate is not a number from {MIN_RATE:g} to {MAX_RATE:g}")
        return Identity(_user(claims["sub"]), expires + self._leeway, self._grants(claims.get("rooms")),
                        _text(claims, "role"), rate, _text(claims, "jti"), _text(claims, "sid"), issued)

    def _grants(self, rooms: object) -> Grants:
        if rooms is None:
            return self._default
        if isinstance(rooms, list):
            rooms = {pattern: ["read"] for pattern in _strings(rooms)}
        if not isinstance(rooms, dict) or len(rooms) > MAX_PATTERNS:
            raise _problem(f"the token's rooms are neither an object nor a list of at most {MAX_PATTERNS} patterns")
        return tuple((pattern, _actions(actions)) for pattern, actions in rooms.items())


def _strings(values: list[object]) -> list[str]:
    if not all(isinstance(value, str) and len(value) <= MAX_USER + 20 for value in values):
        raise _problem("the token's rooms and actions must be strings")
    return [str(value) for value in values]


def _actions(given: object) -> frozenset[str]:
    actions = frozenset(_strings(given if isinstance(given, list) else [given]))
    if "*" in actions:
        return ACTIONS
    if not actions <= ACTIONS:
        raise _problem(f"the token's rooms name an action that is none of {', '.join(sorted(ACTIONS))}")
    return actions


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name != "exp":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e11:
        raise _problem(f"the token's {name} is not a time")
    return float(value)


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= MAX_USER):
        raise _problem(f"the token's {name} is not a string of 1 to {MAX_USER} characters")
    return value


def _user(sub: object) -> str:
    if not isinstance(sub, str) or not 0 < len(sub) <= MAX_USER or not sub.isprintable() or sub.startswith(ANONYMOUS):
        raise _problem(f"the token's sub is not a user id: 1 to {MAX_USER} printable characters, not {ANONYMOUS}...")
    return sub


def bearer(header: str | None) -> str | None:
    """The token of a header `Authorization: Bearer` (RFC 6750 section 2.1); None when it has none."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def open_authenticator(settings: Settings) -> Authenticator | None:
    """What judges tokens; None where they are not asked for.  Raises SettingsError for keys that cannot be used."""
    require_decision(settings)
    if auth_mode(settings) != "jwt":
        _refuse_idle(settings)
        return None
    if not has_keys(settings):
        raise SettingsError(f"WSAPP_AUTH=jwt needs a key: {KEYS}")
    _require_usable_set(settings.jwt_jwks)
    return Authenticator(settings)


def _refuse_idle(settings: Settings) -> None:
    """What is asked of tokens where nobody asks for any: somebody believes that the server is closed."""
    if auth_mode(settings) == "anonymous" and settings.auth is None:
        for name in ("jwt_audience", "jwt_issuer", "token_rooms"):
            if getattr(settings, name):
                raise SettingsError(f"{SPECS[name].env} is of no use without a key: {KEYS}")


def _require_usable_set(place: str | None) -> None:
    """A key set in a file has to be of use; one behind a URL may come later."""
    if place is None or place.startswith(("https://", "http://")):
        return
    if not read_key_set(fetch(place)):
        raise SettingsError(f"WSAPP_JWT_JWKS={place!r} has no key of use: RSA, EC P-256, Ed25519, or a secret of "
                            f"{MIN_SECRET} bytes")
