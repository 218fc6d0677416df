"""Every setting of wsapp, read once.

The fields of `Settings` are the one table: name, environment name, unit at the edge, parser, range, default and
help stand together.  Precedence: keyword argument > `app.config` > environment > default.  A keyword argument is the
environment name in lower case (`wsapp_bind`, `websocket_port`), with or without `wsapp_`.  Units: an UPPER_CASE name
(environment, `app.config`) has the unit its row says, milliseconds for some; the durations of keyword arguments are
always SECONDS: `PING_INTERVAL=25000` is `ping_interval=25.0`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from wsapp.core.api_keys import ApiKey, parse_key
from wsapp.core.catch_up import Pace
from wsapp.core.critical import RetryPolicy
from wsapp.core.events import KINDS
from wsapp.core.forwarding import split_address
from wsapp.core.origin import parse_host, parse_origin
from wsapp.core.partitions import MOST_PARTITIONS
from wsapp.core.patterns import matches
from wsapp.core.ports import Limits
from wsapp.core.throttle import MIN_RATE
from wsapp.errors import SettingsError
from wsapp.public_keys import load_public_key

MAX_RATE: Final = 1e6  # frames per second of one user
MIN_SECRET: Final = 32  # bytes of an HS256 key: no shorter than the hash (RFC 7518 section 3.2)
LONGEST_UNIX: Final = 5 + 107  # characters of unix: and of a path (sockaddr_un, unix(7))
MIN_DIFFERENT: Final = 8  # characters of a secret
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  # where production listens
OWN_PREFIX: Final = "WSAPP_"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_SCHEMES: Final = ("redis", "rediss", "unix")
_SENTINELS: Final = re.compile(r"rediss?\+sentinel://(?:[^/?]*@)?[^/?@]+/[^?/]+(?:/[^?/]+)?/?(?:\?.*)?")
_CLUSTER: Final = re.compile(r"rediss?\+cluster://(?:[^/?]*@)?[^/?@]+(?:/0?)?(?:\?.*)?")
_FILES: Final = re.compile(r"[?&](ssl_ca_certs|ssl_certfile|ssl_keyfile)=([^&]*)")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")  # of a path
_SERVICE: Final = re.compile(
    r"[A-Z0-9_]+_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)")
_SERVICE_PORT: Final = re.compile(r"(?:tcp|udp|sctp)://")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f-\x9f]")


class Spec(NamedTuple):
    """One row of the table.  `scale` turns the edge's unit into the field's (0.001 for milliseconds)."""

    env: str
    unit: str
    parse: Callable[[object, Spec], Any]
    help: str
    low: float = 0
    high: float = math.inf
    scale: float = 1
    secret: bool = False

    def range(self) -> str:
        """The allowed range with its unit, in words."""
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.low:g} to {self.high:.15g}{unit}"


def _number(value: object, spec: Spec) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"is not a number ({spec.range()})")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"is not a number ({spec.range()})")
    if not spec.low <= number <= spec.high:
        raise ValueError(f"is out of range ({spec.range()})")
    return number


def _integer(value: object, spec: Spec) -> int:
    number = _number(value, spec)
    if not number.is_integer():
        raise ValueError(f"is not a whole number ({spec.range()})")
    return int(number)


def _rate(value: object, spec: Spec) -> float:
    """Per second; 0 for no limit."""
    rate = _number(value, spec)
    if 0 < rate < MIN_RATE:
        raise ValueError(f"is out of range (0, or {MIN_RATE:g} to {spec.high:.15g} {spec.unit})")
    return rate


def _duration(value: object, spec: Spec) -> float:
    return _number(value, spec) * spec.scale


def _switch(value: object, _spec: Spec) -> bool:
    word = str(value).strip().lower()
    if word not in _TRUE and word not in _FALSE:
        raise ValueError("is neither on nor off")
    return word in _TRUE


def _text(value: object, spec: Spec) -> str:
    if not isinstance(value, str) or _UNPRINTABLE.search(value) or len(value) > spec.high:
        raise ValueError(f"is not a name (at most {spec.high:g} characters, no blanks)")
    if "{" in value or "}" in value:
        raise ValueError("has a brace in it, which Redis Cluster reads as a hash tag")
    return value


def _bind(value: object, spec: Spec) -> str:
    """A host without its port, an IPv6 address without its brackets, or `unix:/path`."""
    try:
        text = _text(value, spec)
    except ValueError:
        text = ""
    if text.startswith("unix:/") and len(text) <= LONGEST_UNIX:
        return text
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in bare or bare != text:
        try:
            return str(IPv6Address(bare))
        except ValueError:
            bare = ""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", bare):
        raise ValueError("is not an address or name such as 127.0.0.1, ::1 or localhost (the port is WEBSOCKET_PORT), "
                         "nor unix:/run/wsapp/http.sock")
    return bare


def _level(value: object, _spec: Spec) -> str:
    word = str(value).strip().lower()
    if word not in _LEVELS:
        raise ValueError(f"is none of {', '.join(_LEVELS)}")
    return word


def _one_of(*words: str) -> Callable[[object, Spec], str]:
    def parse(value: object, _spec: Spec) -> str:
        word = str(value).strip().lower()
        if word not in words:
            raise ValueError(f"is none of {', '.join(words)}")
        return word

    return parse


def _line(value: object, spec: Spec) -> str:
    """Any text of one line; a secret keeps its blanks."""
    if not isinstance(value, str) or len(value) > spec.high or re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError(f"is not a line of at most {spec.high:g} characters")
    return value if spec.secret else value.strip()


def _advertised(value: object, spec: Spec) -> str:
    text = _text(value, spec)
    try:
        host, port = split_address(text)
    except ValueError:
        host, port = "", 0
    if not re.fullmatch(r"[0-9A-Za-z:.%_-]+", host) or not 0 <= port <= 65_535:
        raise ValueError("is neither host, host:port, [IPv6]:port nor off")
    return text


def _list(value: object, _spec: Spec) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, Iterable):
        raise ValueError("is not a list")
    return tuple(dict.fromkeys(str(item).strip() for item in value if str(item).strip()))


def _patterns(value: object, spec: Spec) -> tuple[str, ...]:
    patterns = _list(value, spec)
    for pattern in patterns:
        kind, colon, _ = pattern.partition(":")
        if not any(matches(kind, known) for known in KINDS) or not (colon or pattern.endswith("*")):
            raise ValueError(f"has a pattern that no room fits: {pattern}; like agent:*,project:7 or *")
    return patterns


def _sources(value: object, spec: Spec) -> tuple[str, ...]:
    sources = _list(value, spec)
    if not sources or not set(sources) <= {"auth", "header", "query"}:
        raise ValueError("is not a list of auth, header, query")
    return sources


def _transports(value: object, spec: Spec) -> tuple[str, ...]:
    transports = _list(value, spec)
    if not transports or not set(transports) <= {"polling", "websocket"}:
        raise ValueError("is not a list of polling, websocket")
    return transports


def _path(value: object, _spec: Spec) -> str:
    """`/a/b/` of `a/b`, `/a/b` or `/a/b/`; "/" of nothing else."""
    parts = value.strip("/").split("/") if isinstance(value, str) else [""]
    if not all(_SEGMENT.fullmatch(part) for part in parts):
        raise ValueError("is not a path such as /live or socket.io")
    return f"/{'/'.join(parts)}/"


def _prefix(value: object, spec: Spec) -> str:
    return "" if value == "/" else _path(value, spec).rstrip("/")


def _namespaces(value: object, spec: Spec) -> tuple[str, ...]:
    names = _list(value, spec)
    if not all(re.fullmatch(r"/[^,?\s]{1,255}", name) for name in names):
        raise ValueError("is not a list of namespaces such as /admin; the namespace / always needs a token")
    return names


def _hosts(value: object, spec: Spec) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_host(text) for text in _list(value, spec)))


def _host(text: str) -> str:
    """As `wsapp.core.origin` reads it, in the spelling of browsers."""
    try:
        name, port = parse_host(text)
        if not name:
            raise ValueError("has no name")
    except ValueError as error:
        raise ValueError(f"has {text!r}, which {error}; like app.example, *.app.example or [::1]:3001") from None
    return name if port is None else f"{name}:{port}"


def _url(value: object, _spec: Spec) -> str:
    shape = ("is not redis://[:password@]host[:port][/db], rediss://..., unix:///path,"
             " redis+sentinel://host:port,host:port/service[/db] or redis+cluster://host:port,host:port")
    if not isinstance(value, str):
        raise ValueError(shape)
    url = re.sub(r"^valkey(s?)(\+sentinel|\+cluster)?://", r"redis\1\2://", value.strip())
    if not _SENTINELS.fullmatch(url) and not _CLUSTER.fullmatch(url) and not _names_a_server(url):
        raise ValueError(shape)
    for name, path in _FILES.findall(url):
        try:
            Path(unquote(path)).open("rb").close()
        except OSError as error:
            raise ValueError(f"names a file that cannot be read: {name}={unquote(path)}: {error.strerror}") from None
    return url


def _names_a_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        place = parts.path if parts.scheme == "unix" else parts.hostname
        return parts.scheme in _SCHEMES and bool(place) and parts.port != 0
    except ValueError:
        return False


def _origin(text: str) -> str:
    if text == "*":
        return text
    try:
        return str(parse_origin(text))
    except ValueError as error:
        raise ValueError(f"has {text!r}, which is not an origin such as https://app.example.com, "
                         f"https://*.example.com, tauri://localhost or *: it {error}") from None


def _origins(value: object, _spec: Spec) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, Iterable):
        raise ValueError("is not a list of origins")
    origins = tuple(dict.fromkeys(_origin(str(item).strip()) for item in value if str(item).strip()))
    if "*" in origins and len(origins) > 1:
        raise ValueError("names * beside other origins")
    return origins


def _api_keys(value: object, _spec: Spec) -> tuple[ApiKey, ...]:
    if isinstance(value, str):
        value = [item for item in value.split(",") if item.strip()]
    if not isinstance(value, Iterable):
        raise ValueError("is not a list of keys")
    return tuple(item if isinstance(item, ApiKey) else parse_key(str(item)) for item in value)


def _setting(default: object, *spec: Any, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"spec": Spec(*spec, **more)}, repr=not more.get("secret"))


def _count(default: int, env: str, unit: str, text: str, low: float = 0, high: float = math.inf) -> Any:
    return _setting(default, env, unit, _integer, text, low, high)


def _seconds(default: float, env: str, text: str, low: float, high: float) -> Any:
    return _setting(default, env, "s", _duration, text, low, high)


def _millis(default: float, env: str, text: str, low: float, high: float) -> Any:
    return _setting(default, env, "ms", _duration, text, low, high, scale=0.001)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the whole process obeys.  Durations in seconds, sizes in bytes; `sources` says where each came from."""

    redis_url: str | None = _setting(None, "REDIS_URL", "", _url, secret=True,
                                     help="the shared Redis or Valkey; unset: a private one is started")
    websocket_port: int = _count(3001, "WEBSOCKET_PORT", "", "port to listen on; 0 takes any free one", 0, 65535)
    websocket_cors_origin: tuple[str, ...] = _setting(
        (), "WEBSOCKET_CORS_ORIGIN", "", _origins,
        "comma list of origins allowed beside the server's own, or * for any; unset: its own only")
    prefix: str = _setting("", "WSAPP_PREFIX", "", _prefix,
                           "before the paths of the page, /api/v1, /healthz, /readyz and /metrics, like /wsapp")
    socket_path: str = _setting("/socket.io/", "WSAPP_SOCKET_PATH", "", _path,
                                "where Socket.IO clients connect: their option `path`")
    transports: tuple[str, ...] = _setting(("polling", "websocket"), "WSAPP_TRANSPORTS", "", _transports,
                                           "that clients may use: comma list of polling, websocket")
    allow_upgrades: bool = _setting(True, "WSAPP_ALLOW_UPGRADES", "", _switch,
                                    "off: a client that begins with polling stays with it")
    max_connections: int = _count(1000, "MAX_CONNECTIONS", "connections", "per worker; more get a 503", 1, 1e6)
    ping_interval: float = _millis(25.0, "PING_INTERVAL", "between two PINGs to a client", 50, 600_000)
    ping_timeout: float = _millis(20.0, "PING_TIMEOUT", "wait for a PONG before the client is dead", 50, 600_000)
    max_events_per_sec: float = _setting(10.0, "MAX_EVENTS_PER_SEC", "frames/s", _number,
                                         "per user and worker; the burst is the same", MIN_RATE, MAX_RATE)

    history_size: int = _count(10_000, "WSAPP_HISTORY_SIZE", "events", "kept per room", 0, 1e7)
    history_bytes: int = _count(4_194_304, "WSAPP_HISTORY_BYTES", "bytes", "kept per room", 0, 2**40)
    history_age: float = _seconds(900.0, "WSAPP_HISTORY_AGE", "how long an event is kept", 0.1, 31_536_000)
    session_ttl: float = _seconds(600.0, "WSAPP_SESSION_TTL", "how long a lost client may come back", 0.1, 604_800)
    result_ttl: float = _seconds(300.0, "WSAPP_RESULT_TTL", "how long an idempotency key is known", 0.1, 604_800)
    active_within: float = _seconds(300.0, "WSAPP_ACTIVE_WITHIN", "a packet this recent makes a connection active",
                                    0.1, 86_400)
    stale_after: float = _seconds(600.0, "WSAPP_STALE_AFTER", "silence after which a connection is closed",
                                  0.1, 86_400)
    sweep_interval: float = _seconds(30.0, "WSAPP_SWEEP_INTERVAL", "between two looks for stale connections",
                                     0.05, 3600)
    critical_first: float = _seconds(2.0, "WSAPP_CRITICAL_FIRST",
                                     "until an unacknowledged critical event is sent again; doubles each time",
                                     0.05, 3600)
    critical_cap: float = _seconds(60.0, "WSAPP_CRITICAL_CAP", "longest wait between two such sendings", 0.05, 86_400)
    critical_attempts: int = _count(5, "WSAPP_CRITICAL_ATTEMPTS", "sendings",
                                    "of a critical event before it is a dead letter", 1, 1000)
    critical_ttl: float = _seconds(86_400.0, "WSAPP_CRITICAL_TTL", "how long a critical event waits for its user",
                                   1, 31_536_000)
    critical_items: int = _count(1000, "WSAPP_CRITICAL_ITEMS", "events",
                                 "unacknowledged per user; more are dead letters", 1, 100_000)
    flush_interval: float = _millis(0.1, "WSAPP_FLUSH_INTERVAL", "between two flushes of throttled events", 5, 60_000)
    queue_items: int = _count(1000, "WSAPP_QUEUE_ITEMS", "events", "waiting per session before shedding", 1, 1e6)
    queue_bytes: int = _count(500_000, "WSAPP_QUEUE_BYTES", "bytes", "waiting per session before shedding",
                              1024, 2**30)
    outbox_bytes: int = _count(4_000_000, "WSAPP_OUTBOX_BYTES", "bytes", "unsent per client before it is closed",
                               1024, 2**32)
    outbox_age: float = _seconds(30.0, "WSAPP_OUTBOX_AGE", "how long a byte may stay unsent", 0.05, 3600)
    max_message: int = _count(1_000_000, "WSAPP_MAX_MESSAGE", "bytes", "largest message taken from a client",
                              1024, 2**30)
    host_max_message: int = _count(16_777_216, "WSAPP_HOST_MAX_MESSAGE", "bytes",
                                   "largest message on a WebSocket of the host app's own routes", 125, 2**30)
    max_event: int = _count(256_000, "WSAPP_MAX_EVENT", "bytes", "largest event published", 256, 2**28)
    max_rooms: int = _count(200, "WSAPP_MAX_ROOMS", "rooms", "per session", 1, 100_000)
    max_replay: int = _count(10_000, "WSAPP_MAX_REPLAY", "events", "replayed per room on recovery", 0, 1e7)
    catch_up_limit: int = _count(1000, "WSAPP_CATCH_UP_LIMIT", "events",
                                 "missed in a room: more are not all replayed; 0: always", 0, 1e7)
    catch_up_tail: int = _count(200, "WSAPP_CATCH_UP_TAIL", "events", "the newest of those, which are replayed",
                                0, 1e7)
    broker_timeout: float = _millis(0.25, "WSAPP_BROKER_TIMEOUT", "longest wait for Redis in one call", 1, 250)
    drain_timeout: float = _seconds(8.0, "WSAPP_DRAIN_TIMEOUT", "time to say goodbye on SIGTERM", 0, 3600)
    heartbeat: float = _seconds(2.0, "WSAPP_HEARTBEAT", "between two renewals of a worker's lease", 0.05, 300)
    heads_interval: float = _seconds(2.0, "WSAPP_HEADS_INTERVAL", "between two looks for lost last messages; 0: none",
                                     0, 300)
    beacon: float = _seconds(10.0, "WSAPP_BEACON", "between two beacons to sdk clients; 0: none", 0, 3600)
    canary: float = _seconds(2.0, "WSAPP_CANARY", "between two probes of the worker's own delivery; 0: none", 0, 300)
    recovery: bool = _setting(True, "WSAPP_RECOVERY", "", _switch,
                              "off: no session event, no pid, nobody resumes: bare Socket.IO")
    ledger: bool = _setting(False, "WSAPP_LEDGER", "", _switch, "debug: account for every event of every session")
    api_keys: tuple[ApiKey, ...] = _setting((), "WSAPP_API_KEYS", "", _api_keys, secret=True,
                                            help="of the server API: comma list of name:scope+scope:sha256hex")
    api_max_body: int = _count(4_000_000, "WSAPP_API_MAX_BODY", "bytes", "of a request to the server API", 1024, 2**30)
    channel: str = _setting("flask-socketio", "WSAPP_CHANNEL", "", _text,
                            "channel of the stock message queue", high=200)
    key_prefix: str = _setting("wsapp:", "WSAPP_KEY_PREFIX", "", _text, "of every key in Redis", high=100)
    partitions: int = _count(1, "WSAPP_PARTITIONS", "partitions",
                             "over which rooms are divided; the same in all processes", 1, MOST_PARTITIONS)
    log_level: str = _setting("info", "WSAPP_LOG_LEVEL", "", _level, ", ".join(_LEVELS))
    deflate: bool = _setting(False, "WSAPP_DEFLATE", "", _switch, "permessage-deflate: on or off")
    deflate_threshold: int = _count(1024, "WSAPP_DEFLATE_THRESHOLD", "bytes", "smaller frames stay plain", 0, 2**30)
    deflate_level: int = _count(1, "WSAPP_DEFLATE_LEVEL", "", "zlib level", 1, 9)
    bind: str = _setting("127.0.0.1", "WSAPP_BIND", "", _bind, high=255, help=
                         "address, name or unix:/path to listen on; unset: this machine only, or all in production")
    advertise: str | None = _setting(None, "WSAPP_ADVERTISE", "", _advertised,
                                     "host or host:port at which other hosts reach this one, or off; unset: the "
                                     "interface that reaches Redis", high=255)
    tls_certificate: str | None = _setting(None, "WSAPP_TLS_CERTIFICATE", "", _line,
                                           "PEM file, the chain included: the port speaks https and wss", high=4096)
    tls_key: str | None = _setting(None, "WSAPP_TLS_KEY", "", _line, "PEM file; unset: in the certificate's", high=4096)
    tls_client_ca: str | None = _setting(None, "WSAPP_TLS_CLIENT_CA", "", _line,
                                         "PEM file: only clients with a certificate of these", high=4096)
    hsts: int = _count(0, "WSAPP_HSTS", "s", "Strict-Transport-Security of answers over TLS; 0: none", 0, 63_072_000)

    env: str = _setting("development", "WSAPP_ENV", "", _one_of("development", "testing", "production"),
                        "production refuses to start without keys or an explicit WSAPP_AUTH")
    auth: str | None = _setting(None, "WSAPP_AUTH", "", _one_of("anonymous", "jwt", "host"),
                                "anonymous, jwt or host (the app identifies); unset: jwt if there are keys")
    jwt_secret: str | None = _setting(None, "WSAPP_JWT_SECRET", "", _line, "HS256, 32 bytes or more",
                                      high=10_000, secret=True)
    jwt_public_key_file: str | None = _setting(None, "WSAPP_JWT_PUBLIC_KEY_FILE", "", _line,
                                               "PEM: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA)", high=4096)
    jwt_jwks: str | None = _setting(None, "WSAPP_JWT_JWKS", "", _line, "URL or file of a JWK set", high=4096)
    jwt_audience: str | None = _setting(None, "WSAPP_JWT_AUDIENCE", "", _line, "that a token must name", high=1000)
    jwt_issuer: str | None = _setting(None, "WSAPP_JWT_ISSUER", "", _line, "that a token must name", high=1000)
    jwt_leeway: float = _seconds(5.0, "WSAPP_JWT_LEEWAY", "how far clocks may differ", 0, 600)
    token_sources: tuple[str, ...] = _setting(("auth",), "WSAPP_TOKEN_SOURCES", "", _sources,
                                              "where a token may stand: comma list of auth, header, query")
    token_rooms: tuple[str, ...] = _setting((), "WSAPP_TOKEN_ROOMS", "", _patterns,
                                            "patterns that a token without `rooms` may read; * for all")
    token_warning: float = _seconds(30.0, "WSAPP_TOKEN_WARNING", "token-expiring comes so long before", 0, 86_400)
    revocation_ttl: float = _seconds(2_592_000.0, "WSAPP_REVOCATION_TTL", "how long a revocation without `until` holds",
                                     1, 315_360_000)
    allowed_hosts: tuple[str, ...] = _setting((), "WSAPP_ALLOWED_HOSTS", "", _hosts,
                                              "comma list of Host names served, like app.example,*.app.example; unset: "
                                              "any, but none that may be rebound to this machine")
    open_namespaces: tuple[str, ...] = _setting((), "WSAPP_OPEN_NAMESPACES", "", _namespaces,
                                                "comma list of the host app's namespaces that need no token")
    host_origin_check: bool = _setting(True, "WSAPP_HOST_ORIGIN_CHECK", "", _switch,
                                       "Origin and Host are judged for WebSockets of the host app's own routes, too")
    trusted_proxies: int = _count(0, "WSAPP_TRUSTED_PROXIES", "proxies", "in front, each adding to X-Forwarded-For",
                                  0, 16)
    max_connections_per_user: int = _count(100, "WSAPP_MAX_CONNECTIONS_PER_USER", "connections",
                                           "per worker; 0: no limit", 0, 1e6)
    max_connections_per_address: int = _count(500, "WSAPP_MAX_CONNECTIONS_PER_ADDRESS", "connections",
                                              "per worker, not for the loopback; 0: no limit", 0, 1e6)
    max_handshakes_per_sec: float = _setting(3000.0, "WSAPP_MAX_HANDSHAKES_PER_SEC", "handshakes/s", _rate,
                                             "per worker; more get a 503; 0: no limit", 0, 1e6)
    max_tls_handshakes_per_sec: float = _setting(
        500.0, "WSAPP_MAX_TLS_HANDSHAKES_PER_SEC", "handshakes/s", _rate,
        "per worker, where gunicorn ends TLS; the burst is twice it; more get an alert; 0: no limit", 0, 1e6)
    request_timeout: float = _seconds(15.0, "WSAPP_REQUEST_TIMEOUT", "for the head of a request, and for its body",
                                      0.1, 3600)
    connect_timeout: float = _seconds(45.0, "WSAPP_CONNECT_TIMEOUT", "in which a transport must join a namespace",
                                      0.1, 3600)
    max_inbound_per_sec: float = _setting(200.0, "WSAPP_MAX_INBOUND_PER_SEC", "packets/s", _rate,
                                          "from a session; the burst is ten times it; 0: no limit", 0, 1e6)
    max_inbound_per_user: float = _setting(1000.0, "WSAPP_MAX_INBOUND_PER_USER", "packets/s", _rate,
                                           "from a user's sessions on a worker; burst as above; 0: no limit", 0, 1e6)
    inbox_bytes: int = _count(4_000_000, "WSAPP_INBOX_BYTES", "bytes", "unhandled per client before it must wait",
                              1024, 2**30)

    embedded_url: str | None = _setting(None, "WSAPP_EMBEDDED_URL", "", _url, secret=True,
                                        help="internal: the private Valkey, told by the master to its workers")

    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def limits(self) -> Limits:
        """What the backends need to know."""
        return Limits(history_size=self.history_size, history_bytes=self.history_bytes,
                      history_age=self.history_age, session_ttl=self.session_ttl, result_ttl=self.result_ttl,
                      critical_ttl=self.critical_ttl, critical_items=self.critical_items)

    @property
    def pace(self) -> Pace:
        """How much of a long absence is replayed."""
        return Pace(self.catch_up_limit, self.catch_up_tail)

    @property
    def retry_policy(self) -> RetryPolicy:
        """When critical events are sent again."""
        return RetryPolicy(self.critical_first, self.critical_cap, self.critical_attempts)


class Row(NamedTuple):
    """One setting as `wsapp config` prints it: value in the unit of its environment name, passwords masked."""

    name: str
    value: str
    unit: str
    source: str
    help: str


SPECS: Final[Mapping[str, Spec]] = {
    field.name: field.metadata["spec"] for field in dataclasses.fields(Settings) if "spec" in field.metadata
}
_BY_ENV: Final = {spec.env: name for name, spec in SPECS.items()}
_BY_KEYWORD: Final = {**{spec.env.lower(): name for name, spec in SPECS.items()}, **{name: name for name in SPECS}}


def _bare(name: str) -> str:
    return name.removeprefix(OWN_PREFIX).removeprefix(OWN_PREFIX.lower())


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name that is most like `name`, or nothing."""
    # Without the prefix, which would make every own name look like every other.
    bare = {_bare(each): each for each in known}
    close = difflib.get_close_matches(_bare(name), bare, n=1, cutoff=0.6)
    return f"; did you mean {bare[close[0]]}?" if close else "; `wsapp config` lists all"


def _unset(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _parsed(spec: Spec, name: str, value: object) -> object:
    """Raises SettingsError naming the setting as it was given."""
    if name == spec.env:
        checked = spec
    else:  # a keyword argument is in the field's own unit
        checked = spec._replace(low=spec.low * spec.scale, high=spec.high * spec.scale, scale=1,
                                unit="s" if spec.unit == "ms" else spec.unit)
    try:
        return spec.parse(value, checked)
    except ValueError as error:
        shown = _masked(spec, str(value)) if spec.secret else value
        raise SettingsError(f"{name}={shown!r} {error}") from None


def _without_services(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what Kubernetes and Docker put there for a service named `wsapp`, `wsapp-redis` or
    `websocket`: `WSAPP_SERVICE_HOST`, `WEBSOCKET_PORT=tcp://10.0.0.1:3001`, `WSAPP_PORT_3001_TCP_ADDR` (Kubernetes,
    "Accessing the Service: environment variables")."""
    return {name: value for name, value in environ.items()
            if not _SERVICE.fullmatch(name) and not (name.endswith("_PORT") and _SERVICE_PORT.match(value))}


def _refuse_unknown(names: Iterable[str], where: str) -> None:
    for name in names:
        own = name.startswith(OWN_PREFIX)
        if own and name not in _BY_ENV:
            raise SettingsError(f"{name} in the {where} is no setting{nearest(name, _BY_ENV)}")


def _arguments(overrides: Mapping[str, object]) -> dict[str, object]:
    """The lower-case part of the overrides, by field.  An UPPER_CASE name is Flask's unless it is ours."""
    arguments: dict[str, object] = {}
    for name, value in overrides.items():
        if name.isupper():
            continue
        if name not in _BY_KEYWORD:
            raise SettingsError(f"{name} is no setting{nearest(name, (spec.env.lower() for spec in SPECS.values()))}")
        if _BY_KEYWORD[name] in arguments:
            raise SettingsError(f"{name} is given twice: with and without {OWN_PREFIX.lower()}")
        arguments[_BY_KEYWORD[name]] = value
    return arguments


def _cross_check(settings: Settings) -> None:
    if settings.active_within > settings.stale_after:
        raise SettingsError(f"WSAPP_ACTIVE_WITHIN={settings.active_within:g} is more than "
                            f"WSAPP_STALE_AFTER={settings.stale_after:g}")
    for name in ("tls_key", "tls_client_ca"):
        if getattr(settings, name) is not None and settings.tls_certificate is None:
            raise SettingsError(f"{SPECS[name].env} is of no use without WSAPP_TLS_CERTIFICATE")


def load_settings(environ: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> Settings:
    """Read all settings.  `overrides` may mix `app.config` (UPPER_CASE names, units as in the environment; names
    that are not ours are left alone) and keyword arguments (lower_case, durations in seconds).

    None and the empty string count as not given.  Raises SettingsError, one line with the fix in it, on a wrong
    value and on any unknown `WSAPP_*` or lower-case name.
    """
    overrides = overrides or {}
    environ = _without_services(environ)
    _refuse_unknown(environ, "environment")
    _refuse_unknown(overrides, "app.config")
    arguments = _arguments(overrides)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for field, spec in SPECS.items():
        for source, name, mapping in (("argument", field, arguments), ("app.config", spec.env, overrides),
                                      ("environment", spec.env, environ)):
            if not _unset(mapping.get(name)):
                values[field], sources[field] = _parsed(spec, name, mapping[name]), source
                break
    if "bind" not in values and values.get("env") == "production":
        values["bind"] = EVERYWHERE
    if "redis_url" not in values and "embedded_url" in values:
        values["redis_url"], sources["redis_url"] = values["embedded_url"], "embedded"
    settings = Settings(**values, sources=sources)
    _cross_check(settings)
    return settings


def has_keys(settings: Settings) -> bool:
    """Whether any key for tokens is configured."""
    return any(source is not None for source in (settings.jwt_secret, settings.jwt_public_key_file, settings.jwt_jwks))


def auth_mode(settings: Settings) -> str:
    """`jwt`, `host` (the application's `identify`) or `anonymous`.  Unset: `jwt` when there are keys."""
    return settings.auth or ("jwt" if has_keys(settings) else "anonymous")


def require_decision(settings: Settings) -> None:
    """Raises SettingsError when a production server would let anybody in without somebody having said so, and for keys
    that are of no use.  gunicorn's master asks: nothing here may load `ssl`, which gevent has yet to patch."""
    if settings.env == "production" and settings.auth is None and not has_keys(settings):
        raise SettingsError("WSAPP_ENV=production needs keys (WSAPP_JWT_SECRET, WSAPP_JWT_PUBLIC_KEY_FILE or "
                            "WSAPP_JWT_JWKS) or a decision: WSAPP_AUTH=jwt, host or anonymous")
    if settings.jwt_secret is not None and len(settings.jwt_secret.encode()) < MIN_SECRET:
        raise SettingsError(f"WSAPP_JWT_SECRET is too short: HS256 needs {MIN_SECRET} bytes (openssl rand -base64 48)")
    if settings.jwt_secret is not None and "-----BEGIN" in settings.jwt_secret:
        raise SettingsError("WSAPP_JWT_SECRET is a key in PEM: name the file of the public one in "
                            "WSAPP_JWT_PUBLIC_KEY_FILE")
    if settings.jwt_secret is not None and len(set(settings.jwt_secret)) < MIN_DIFFERENT:
        raise SettingsError("WSAPP_JWT_SECRET can be guessed: it has fewer than "
                            f"{MIN_DIFFERENT} different characters (openssl rand -base64 48)")
    if settings.jwt_public_key_file is not None:
        load_public_key(settings.jwt_public_key_file)
    if settings.jwt_jwks is not None:
        _require_readable_set(settings.jwt_jwks)


def _require_readable_set(place: str) -> None:
    """A key set in a file has to be there; one behind a URL may come later."""
    if place.startswith(("https://", "http://")):
        if not urlsplit(place).hostname:
            raise SettingsError(f"WSAPP_JWT_JWKS={place!r} names no host")
        return
    try:
        told = json.loads(Path(place.removeprefix("file://")).read_bytes())
    except OSError as error:
        raise SettingsError(f"WSAPP_JWT_JWKS={place!r} {error.strerror}: give the path of a file, or "
                            "https://...") from None
    except ValueError:
        told = None
    if not isinstance(told, dict) or not isinstance(told.get("keys"), list):
        raise SettingsError(f"WSAPP_JWT_JWKS={place!r} is no JWK set: an object with a list `keys`")


def mask_url(url: str) -> str:
    """The URL with its password replaced by `***`; a password in the query too."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    userinfo, at, host = parts.netloc.rpartition("@")
    if at:
        user, colon, _password = userinfo.partition(":")
        userinfo = f"{user}:***" if colon else userinfo
    query = re.sub(r"(?i)((?:^|&)[^=&]*password[^=&]*=)[^&]*", r"\1***", parts.query)
    masked = urlunsplit(("", userinfo + at + host, parts.path, query, parts.fragment)).removeprefix("//")
    return f"{parts.scheme}://{masked}"


def _masked(spec: Spec, value: str) -> str:
    return mask_url(value) if spec.parse is _url else "***"


def _shown(spec: Spec, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or ("same origin" if spec.parse is _origins else "-")
    if isinstance(value, float):
        return f"{value / spec.scale:.10g}"
    return _masked(spec, str(value)) if spec.secret else str(value)


def describe(settings: Settings) -> list[Row]:
    """Every setting in the table's order; sources are `argument`, `app.config`, `environment`, `embedded` or
    `default`."""
    return [Row(spec.env, _shown(spec, getattr(settings, name)), spec.unit, settings.sources.get(name, "default"),
                spec.help) for name, spec in SPECS.items()]
