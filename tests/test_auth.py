"""Tokens: every key kind, every way to be wrong, and what the right ones grant."""

from __future__ import annotations

import base64
import json
import math
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from wsapp.auth import (
    Authenticator,
    Identity,
    KeySet,
    TokenRefused,
    open_authenticator,
    read_key_set,
)
from wsapp.errors import ErrorCode, SettingsError
from wsapp.settings import Settings, auth_mode, require_decision

SECRET = "a secret of the tests, long enough for HS256"
NOW = 1_000_000.0
PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048), "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate()}


def pem(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def jwk(algorithm: str, kid: str | None = None, key: Any = None, **more: Any) -> dict[str, Any]:
    kinds = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm,
             "EdDSA": jwt.algorithms.OKPAlgorithm}
    found = dict(json.loads(kinds[algorithm].to_jwk((key or PRIVATE[algorithm]).public_key())))
    return {**found, **({"kid": kid} if kid else {}), **more}


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    given = {"sub": "ann", "exp": NOW + 60, **claims}
    return jwt.encode({name: value for name, value in given.items() if value is not None}, key, algorithm, headers)


def judge_with(**settings: Any) -> Authenticator:
    return Authenticator(Settings(**{"jwt_secret": SECRET, **settings}), clock=lambda: NOW)


def refused(text: object, authenticator: Authenticator | None = None) -> ErrorCode:
    with pytest.raises(TokenRefused) as caught:
        (authenticator or judge_with()).judge(text)
    if isinstance(text, str) and text:
        assert text not in str(caught.value), "a token is never quoted"
    return caught.value.code


def test_what_a_token_says() -> None:
    identity = judge_with().judge(token(
        rooms={"agent:*": ["read", "presence"], "task:7": "*"}, role="editor", rate=2.5, jti="t1", sid="login",
        iat=NOW))
    assert (identity.user_id, identity.role, identity.rate, identity.token_id, identity.login, identity.issued) == (
        "ann", "editor", 2.5, "t1", "login", NOW)
    assert identity.expires == NOW + 60 + 5
    assert identity.allows("read", "agent:a:b") and identity.allows("presence", "agent:x")
    assert identity.allows("publish", "task:7")
    assert not identity.allows("publish", "agent:x")
    assert not identity.allows("read", "task:77")
    assert not identity.allows("read", "xagent:a")
    assert set(identity.revocable()) == {"jti", "user", "session"}
    assert "login" not in str(identity.revocable()), "a session is stored as a digest"


def test_patterns() -> None:
    def may(*rooms: str) -> Identity:
        return judge_with().judge(token(rooms=list(rooms)))
    assert may("agent:*").allows("read", "agent:a") and not may("agent:*").allows("presence", "agent:a")
    assert may("task:?").allows("read", "task:?") and not may("task:?").allows("read", "task:7")  # `*` alone
    assert may("agent:[x]").allows("read", "agent:[x]")
    assert not may("AGENT:*").allows("read", "agent:a")
    assert not may().allows("read", "agent:a")


def test_a_token_without_rooms_gets_what_the_setting_says() -> None:
    assert not judge_with().judge(token()).allows("read", "agent:a")
    opened = judge_with(token_rooms=("*",)).judge(token())
    assert opened.allows("read", "agent:a") and not opened.allows("publish", "agent:a")
    assert not judge_with(token_rooms=("*",)).judge(token(rooms=[])).allows("read", "agent:a")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_keys_by_file_and_by_set(algorithm: str, tmp_path: Path) -> None:
    path, keys = tmp_path / "key.pem", tmp_path / "keys.json"
    path.write_text(pem(PRIVATE[algorithm]))
    keys.write_text(json.dumps({"keys": [jwk(algorithm, "k1")]}))
    good = token(PRIVATE[algorithm], algorithm, {"kid": "k1"})
    for settings in ({"jwt_public_key_file": str(path)}, {"jwt_jwks": str(keys)}, {"jwt_jwks": f"file://{keys}"}):
        authenticator = judge_with(jwt_secret=None, **settings)
        assert authenticator.judge(good).user_id == "ann"
        others = {"RS256": rsa.generate_private_key(65537, 2048), "ES256": ec.generate_private_key(ec.SECP256R1()),
                  "EdDSA": ed25519.Ed25519PrivateKey.generate()}
        assert refused(token(others[algorithm], algorithm, {"kid": "k1"}), authenticator) is ErrorCode.TOKEN_INVALID
        for other, key in PRIVATE.items():
            if other != algorithm:
                assert refused(token(key, other, {"kid": "k1"}), authenticator) is ErrorCode.TOKEN_INVALID


def forged(header: dict[str, Any], secret: bytes | None = None) -> str:
    """A token made by hand: libraries refuse to."""
    import hashlib
    import hmac

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
    text = f"{part(json.dumps(header).encode())}.{part(json.dumps({'sub': 'ann', 'exp': NOW + 60}).encode())}"
    signature = hmac.new(secret, text.encode(), hashlib.sha256).digest() if secret is not None else b""
    return f"{text}.{part(signature)}"


def test_the_algorithm_is_the_keys_not_the_tokens(tmp_path: Path) -> None:
    """RFC 8725 section 2.1: `none`, and the public key as an HMAC secret."""
    path = tmp_path / "key.pem"
    path.write_text(pem(PRIVATE["RS256"]))
    authenticator = judge_with(jwt_secret=None, jwt_public_key_file=str(path))
    assert refused(forged({"alg": "HS256"}, path.read_bytes()), authenticator) is ErrorCode.TOKEN_INVALID
    for name in ("none", "None", "nOnE", "", None, 7, ["RS256"], {"RS256": 1}, [[]], True, 1.5):
        assert refused(forged({"alg": name}), authenticator) is ErrorCode.TOKEN_INVALID
        assert refused(forged({"alg": name})) is ErrorCode.TOKEN_INVALID
    assert refused(token(algorithm="HS384")) is ErrorCode.TOKEN_INVALID


@pytest.mark.parametrize(("claims", "code"), [
    ({"exp": NOW - 6}, ErrorCode.TOKEN_EXPIRED),
    ({"exp": None}, ErrorCode.TOKEN_INVALID),
    ({"exp": "soon"}, ErrorCode.TOKEN_INVALID),
    ({"exp": math.inf}, ErrorCode.TOKEN_INVALID),
    ({"sub": None}, ErrorCode.TOKEN_INVALID),
    ({"sub": ""}, ErrorCode.TOKEN_INVALID),
    ({"sub": "anon:x"}, ErrorCode.TOKEN_INVALID),
    ({"sub": "a\nb"}, ErrorCode.TOKEN_INVALID),
    ({"sub": "x" * 201}, ErrorCode.TOKEN_INVALID),
    ({"nbf": NOW + 60}, ErrorCode.TOKEN_INVALID),
    ({"iat": NOW + 60}, ErrorCode.TOKEN_INVALID),
    ({"rooms": "agent:*"}, ErrorCode.TOKEN_INVALID),
    ({"rooms": [1]}, ErrorCode.TOKEN_INVALID),
    ({"rooms": {"agent:*": ["write"]}}, ErrorCode.TOKEN_INVALID),
    ({"rooms": {"agent:*": [7]}}, ErrorCode.TOKEN_INVALID),
    ({"rate": 0}, ErrorCode.TOKEN_INVALID),
    ({"rate": True}, ErrorCode.TOKEN_INVALID),
    ({"rate": 5e-324}, ErrorCode.TOKEN_INVALID),
    ({"jti": 7}, ErrorCode.TOKEN_INVALID),
    ({"role": ["a"]}, ErrorCode.TOKEN_INVALID),
])
def test_wrong_claims(claims: dict[str, Any], code: ErrorCode) -> None:
    assert refused(token(**claims)) is code


def test_leeway() -> None:
    assert judge_with().judge(token(exp=NOW - 4)).user_id == "ann"
    assert judge_with().judge(token(nbf=NOW + 4, iat=NOW + 4)).user_id == "ann"
    assert refused(token(exp=NOW), judge_with(jwt_leeway=0.0)) is ErrorCode.TOKEN_EXPIRED


def test_audience_and_issuer() -> None:
    strict = judge_with(jwt_audience="wsapp", jwt_issuer="https://id.example")
    assert strict.judge(token(aud=["x", "wsapp"], iss="https://id.example")).user_id == "ann"
    for claims in ({"aud": "other", "iss": "https://id.example"}, {"aud": "wsapp", "iss": "https://evil.example"}, {}):
        assert refused(token(**claims), strict) is ErrorCode.TOKEN_INVALID
    assert judge_with().judge(token(aud="whoever")).user_id == "ann"


@pytest.mark.parametrize("text", ["x", "a.b.c", "é.é.é", "." * 8000, "x" * 9000, 7, {}, ["a"], b"x", True])
def test_what_is_no_token(text: object) -> None:
    assert refused(text) is ErrorCode.TOKEN_INVALID


def test_no_token() -> None:
    assert refused(None) is refused("") is ErrorCode.TOKEN_MISSING


class Keys:
    """A key set that can be changed, and be away."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys, self.now, self.asked, self.away = list(keys), 0.0, 0, False
        self.set = KeySet("https://id.example/keys", self.fetch, clock=lambda: self.now)

    def fetch(self, place: str) -> bytes:
        assert place == "https://id.example/keys"
        self.asked += 1
        if self.away:
            raise OSError("away")
        return json.dumps({"keys": self.keys}).encode()

    def ids(self, asked: str | None) -> list[str | None]:
        return [key.id for key in self.set.keys(asked)]


def test_an_unknown_kid_refetches_at_most_every_ten_seconds() -> None:
    keys = Keys(jwk("RS256", "old"))
    assert keys.ids("old") == ["old"]
    keys.keys.append(jwk("ES256", "new"))
    assert keys.ids("new") == []
    keys.now = 10.0
    assert keys.ids("new") == ["new"]
    for _ in range(50):
        assert keys.ids("unknown") == []
    assert keys.asked == 2
    keys.now = 19.9
    assert keys.ids("old") == ["old"] and keys.asked == 2


def test_a_withdrawn_key_is_forgotten_and_an_outage_is_not_a_withdrawal() -> None:
    keys = Keys(jwk("RS256", "old"))
    assert keys.ids("old") == ["old"]
    keys.away, keys.now = True, 301.0
    assert keys.ids("old") == ["old"]
    keys.away, keys.keys, keys.now = False, [jwk("RS256", "new")], 400.0
    assert keys.ids("old") == [] and keys.ids("new") == ["new"]


def test_without_any_keys_the_client_may_try_again() -> None:
    keys = Keys()
    keys.away = True
    with pytest.raises(TokenRefused) as caught:
        keys.ids("k")
    assert caught.value.told()["code"] == "keys_unavailable"
    assert caught.value.told()["retryable"] is True


def test_keys_of_a_set_that_are_left_out() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    short = {"kty": "oct", "k": base64.urlsafe_b64encode(b"short").decode(), "kid": "short"}
    private = {**jwk("EdDSA", "private"), "d": "AAAA"}
    odd = [jwk("RS256", "enc", use="enc"), jwk("RS256", "ps", alg="PS256"), jwk("RS256", "weak", weak), short, private,
           {"kty": "EC", "crv": "P-384"}, {"kty": "XX"}, {}, 7, None]
    assert [key.id for key in read_key_set(json.dumps({"keys": [*odd, jwk("ES256", "good")]}))] == ["good"]
    for text in ("[]", "{}", "x", '{"keys": 7}'):
        with pytest.raises(ValueError):
            read_key_set(text)


@pytest.mark.parametrize(("settings", "told"), [
    ({"jwt_secret": "short"}, "WSAPP_JWT_SECRET is too short"),
    ({"jwt_public_key_file": "no-such-file.pem"}, "WSAPP_JWT_PUBLIC_KEY_FILE='no-such-file.pem' No such file"),
    ({"auth": "jwt"}, "needs a key"),
    ({"jwt_issuer": "https://id.example"}, "WSAPP_JWT_ISSUER is of no use without a key"),
    ({"jwt_audience": "wsapp"}, "WSAPP_JWT_AUDIENCE is of no use"),
    ({"token_rooms": ("agent:*",)}, "WSAPP_TOKEN_ROOMS is of no use"),
    ({"env": "production"}, "needs keys"),
])
def test_what_stops_the_boot(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        open_authenticator(Settings(**settings))
    assert "\n" not in str(caught.value)


def test_a_private_key_or_a_weak_one_is_no_public_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    for text in ("nonsense", PRIVATE["RS256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
                 pem(rsa.generate_private_key(65537, 1024)), pem(ec.generate_private_key(ec.SECP384R1()))):
        path.write_text(text)
        with pytest.raises(SettingsError, match="WSAPP_JWT_PUBLIC_KEY_FILE"):
            open_authenticator(Settings(jwt_public_key_file=str(path)))


def test_a_key_set_without_a_key_of_use(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for keys in ([], [jwk("RS256", "weak", rsa.generate_private_key(65537, 1024))]):
        path.write_text(json.dumps({"keys": keys}))
        with pytest.raises(SettingsError, match="has no key of use"):
            open_authenticator(Settings(jwt_jwks=str(path)))
    path.write_text(json.dumps({"keys": [jwk("ES256", "good")]}))
    assert open_authenticator(Settings(jwt_jwks=str(path))) is not None
    assert open_authenticator(Settings(jwt_jwks="https://id.example/keys")) is not None


def test_modes() -> None:
    assert auth_mode(Settings()) == "anonymous"
    assert auth_mode(Settings(jwt_secret=SECRET)) == "jwt"
    assert auth_mode(Settings(jwt_secret=SECRET, auth="anonymous")) == "anonymous"
    assert open_authenticator(Settings()) is None
    assert open_authenticator(Settings(env="production", auth="host")) is None
    require_decision(Settings(env="production", jwt_secret=SECRET))


def test_the_real_clock() -> None:
    authenticator = Authenticator(Settings(jwt_secret=SECRET))
    assert authenticator.judge(token(exp=time.time() + 60)).user_id == "ann"
