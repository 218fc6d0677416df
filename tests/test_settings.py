"""One table, four sources, one clear line when something is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from wsapp.errors import SettingsError
from wsapp.settings import SPECS, Settings, describe, load_settings, mask_url, require_decision

ORIGINAL = {"REDIS_URL": None, "WEBSOCKET_PORT": 3001, "WEBSOCKET_CORS_ORIGIN": (), "MAX_CONNECTIONS": 1000,
            "PING_INTERVAL": 25.0, "PING_TIMEOUT": 20.0, "MAX_EVENTS_PER_SEC": 10.0}


def refused(environ: dict[str, str] | None = None, **overrides: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ or {}, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_of_the_original() -> None:
    settings = load_settings({})
    by_env = {spec.env: getattr(settings, name) for name, spec in SPECS.items()}
    assert {name: by_env[name] for name in ORIGINAL} == ORIGINAL
    assert settings == Settings()


def test_every_own_name_has_the_prefix_and_is_unique() -> None:
    names = [spec.env for spec in SPECS.values()]
    assert len(set(names)) == len(names)
    assert {name for name in names if not name.startswith("WSAPP_")} == set(ORIGINAL)


def test_precedence_and_sources() -> None:
    environ = {"MAX_CONNECTIONS": "1", "PING_TIMEOUT": "100", "PING_INTERVAL": "100"}
    settings = load_settings(environ, {"MAX_CONNECTIONS": 2, "PING_INTERVAL": 200, "max_connections": 3})
    assert (settings.max_connections, settings.ping_interval, settings.ping_timeout) == (3, 0.2, 0.1)
    assert settings.sources == {"max_connections": "argument", "ping_interval": "app.config",
                                "ping_timeout": "environment"}


def test_units_differ_by_spelling() -> None:
    assert load_settings({"WSAPP_BROKER_TIMEOUT": "100"}).broker_timeout == 0.1
    assert load_settings({}, {"broker_timeout": 0.1}).broker_timeout == 0.1
    assert load_settings({"PING_INTERVAL": "1500.5"}).ping_interval == pytest.approx(1.5005)
    assert "0.05 to 600 s" in refused(ping_interval=25_000)


def test_keywords_are_the_names_in_lower_case() -> None:
    for name, spec in SPECS.items():
        assert spec.env.lower() in (name, f"wsapp_{name}")
    settings = load_settings({}, {"websocket_cors_origin": "*", "wsapp_bind": "::1", "wsapp_flush_interval": 0.25})
    assert settings.websocket_cors_origin == ("*",) and settings.bind == "::1" and settings.flush_interval == 0.25
    assert load_settings({}, {"bind": "::1"}).bind == "::1"
    assert "given twice" in refused(bind="::1", wsapp_bind="::1")


@pytest.mark.parametrize(("given", "read"), [
    ("socket.io", "/socket.io/"), ("/a/socket.io", "/a/socket.io/"), ("/socket.io/", "/socket.io/")])
def test_paths(given: str, read: str) -> None:
    assert load_settings({}, {"socket_path": given}).socket_path == read


@pytest.mark.parametrize("wrong", ["/", "a//b", "../x", "/a?b", "a b", "/.x", 7])
def test_no_paths(wrong: object) -> None:
    assert "is not a path" in refused(wsapp_socket_path=wrong)


def test_only_production_listens_on_all_addresses_by_itself() -> None:
    assert load_settings({}).bind == load_settings({"WSAPP_ENV": "testing"}).bind == "127.0.0.1"
    assert load_settings({"WSAPP_ENV": "production"}).bind == "0.0.0.0"
    assert load_settings({"WSAPP_ENV": "production", "WSAPP_BIND": "::1"}).bind == "::1"


@pytest.mark.parametrize(("given", "read"), [("/", ""), ("live", "/live"), ("/a/b/", "/a/b"), ("", "")])
def test_prefixes(given: str, read: str) -> None:
    assert load_settings({"WSAPP_PREFIX": given}).prefix == read


def test_nothing_given_is_not_given() -> None:
    settings = load_settings({"REDIS_URL": "", "MAX_CONNECTIONS": " "}, {"max_connections": None})
    assert (settings.redis_url, settings.max_connections) == (None, 1000)


def test_config_of_others_is_left_alone() -> None:
    assert load_settings({"PATH": "x", "PINGS": "1"}, {"DEBUG": True, "SECRET_KEY": "s"}) == Settings()


@pytest.mark.parametrize(("environ", "told"), [
    ({"WSAPP_HISTRY_SIZE": "1"}, "did you mean WSAPP_HISTORY_SIZE?"),
    ({"WSAPP_REDIS_URL": "redis://h"}, "did you mean REDIS_URL?"),
    ({"WSAPP_ZZZZ": "1"}, "`wsapp config` lists all"),
    ({"MAX_CONNECTIONS": "many"}, "MAX_CONNECTIONS='many' is not a number (1 to 1000000 connections)"),
    ({"MAX_CONNECTIONS": "0"}, "out of range"),
    ({"MAX_CONNECTIONS": "1.5"}, "not a whole number"),
    ({"MAX_CONNECTIONS": "nan"}, "not a number"),
    ({"WSAPP_HISTORY_SIZE": "1e999"}, "not a number"),
    ({"WSAPP_MAX_INBOUND_PER_SEC": "5e-324"}, "0, or 0.01 to"),
    ({"MAX_EVENTS_PER_SEC": "0"}, "0.01 to"),
    ({"WSAPP_BROKER_TIMEOUT": "251"}, "1 to 250 ms"),
    ({"WSAPP_DEFLATE": "maybe"}, "neither on nor off"),
    ({"WSAPP_LOG_LEVEL": "loud"}, "debug, info"),
    ({"WSAPP_CHANNEL": "a b"}, "no blanks"),
    ({"WSAPP_KEY_PREFIX": "a{b}"}, "hash tag"),
    ({"REDIS_URL": "localhost:6379"}, "redis://"),
    ({"REDIS_URL": "redis://h:99999"}, "redis://"),
    ({"REDIS_URL": "redis+sentinel://h:1"}, "redis+sentinel://host:port"),
    ({"REDIS_URL": "redis+cluster://h:1/3"}, "redis+cluster://host:port"),
    ({"WSAPP_PARTITIONS": "0"}, "out of range (1 to 64 partitions)"),
    ({"REDIS_URL": "rediss://h/0?ssl_ca_certs=/no/such%20ca.pem"}, "ssl_ca_certs=/no/such ca.pem: No such file"),
    ({"WEBSOCKET_CORS_ORIGIN": "example.com"}, "not an origin"),
    ({"WSAPP_TRANSPORTS": "polling,sse"}, "is not a list of polling, websocket"),
    ({"WEBSOCKET_CORS_ORIGIN": "https://a.example/path"}, "not an origin"),
    ({"WEBSOCKET_CORS_ORIGIN": "*,https://a.example"}, "beside other origins"),
    ({"WEBSOCKET_CORS_ORIGIN": "https://*"}, "not an origin"), ({"WEBSOCKET_CORS_ORIGIN": "null"}, "not an origin"),
    ({"WEBSOCKET_CORS_ORIGIN": "file:///x"}, "not an origin"),
    ({"WEBSOCKET_CORS_ORIGIN": "https://stra\u00dfe.example"}, "punycode"),
    ({"WSAPP_ALLOWED_HOSTS": ":443"}, "no name"), ({"WSAPP_ALLOWED_HOSTS": "::1"}, "[::1]:3001"),
    ({"WSAPP_ACTIVE_WITHIN": "700"}, "WSAPP_STALE_AFTER=600"),
    ({"WSAPP_AUTH": "basic"}, "anonymous, jwt, host"),
    ({"WSAPP_TOKEN_ROOMS": "agents:*"}, "no room fits: agents:"),
    ({"WSAPP_TOKEN_ROOMS": "agent:*,task"}, "no room fits: task"),
    ({"WSAPP_ENV": "prod"}, "development, testing, production"),
    ({"WSAPP_TOKEN_SOURCES": "auth,cookie"}, "auth, header, query"),
    ({"WSAPP_ALLOWED_HOSTS": "https://app.example"}, "is not a name, or name:port; like app.example"),
    ({"WSAPP_OPEN_NAMESPACES": "/,admin"}, "namespaces such as /admin"),
    ({"WSAPP_JWT_ISSUER": "a\nb"}, "not a line"),
])
def test_what_is_wrong_is_told_in_one_line(environ: dict[str, str], told: str) -> None:
    message = refused(environ)
    assert told in message
    assert next(iter(environ)) in message


def test_unknown_argument_and_config() -> None:
    assert "did you mean max_connections?" in refused(max_conections=1)
    assert "did you mean websocket_cors_origin?" in refused(cors_origins="*")
    assert "did you mean wsapp_max_rooms?" in refused(max_room=1)
    assert "app.config" in refused(WSAPP_HISTORY_SIZ=1)
    assert "MAX_CONNECTIONS=True" in refused(MAX_CONNECTIONS=True)


def test_no_password_in_an_error_or_a_repr() -> None:
    assert "hunter2" not in refused({"REDIS_URL": "http://u:hunter2@h"})
    assert "hunter2" not in repr(load_settings({"REDIS_URL": "redis://u:hunter2@h/0"}))
    assert "hunter2" not in refused({"REDIS_URL": "redis+sentinel://u:hunter2@h:1,[::1]:2?sentinel_password=hunter2"})


@pytest.mark.parametrize(("given", "kept"), [
    ("redis://h:1/2", "redis://h:1/2"), ("rediss://u:p@h", "rediss://u:p@h"), ("unix:///run/v.sock", "unix:///run/v.sock"),
    ("valkey://h", "redis://h"), ("valkeys://h", "rediss://h"), (" redis://h ", "redis://h"),
    ("valkey+cluster://u:p@h:1,[::1]:2", "redis+cluster://u:p@h:1,[::1]:2"),
    ("rediss+cluster://h/0?ssl_cert_reqs=none", "rediss+cluster://h/0?ssl_cert_reqs=none"),
    ("valkeys+sentinel://u:p@h:1,[::1]:2/news/0", "rediss+sentinel://u:p@h:1,[::1]:2/news/0"),
    ("unix:///run/v.sock?db=1", "unix:///run/v.sock?db=1"),
])
def test_redis_urls(given: str, kept: str) -> None:
    assert load_settings({"REDIS_URL": given}).redis_url == kept


def test_what_an_orchestrator_says_of_services_is_no_setting() -> None:
    """A Kubernetes service or a linked container named wsapp, wsapp-redis or websocket."""
    said = {"WSAPP_SERVICE_HOST": "10.0.0.1", "WSAPP_SERVICE_PORT": "3001", "WSAPP_SERVICE_PORT_HTTP": "3001",
            "WSAPP_PORT": "tcp://10.0.0.1:3001", "WSAPP_PORT_3001_TCP": "tcp://10.0.0.1:3001",
            "WSAPP_PORT_3001_TCP_PROTO": "tcp", "WSAPP_PORT_3001_TCP_PORT": "3001",
            "WSAPP_PORT_3001_TCP_ADDR": "10.0.0.1", "WSAPP_REDIS_SERVICE_HOST": "10.0.0.2",
            "WSAPP_REDIS_PORT": "tcp://10.0.0.2:6379", "WEBSOCKET_SERVICE_HOST": "10.0.0.1",
            "WEBSOCKET_PORT": "tcp://10.0.0.1:3001"}
    settings = load_settings({**said, "WSAPP_BIND": "::1"}, {})
    assert (settings.websocket_port, settings.bind) == (3001, "::1")
    assert "WSAPP_PORT" in refused({"WSAPP_PORT": "3001"})
    assert "WEBSOCKET_PORT" in refused({"WEBSOCKET_PORT": "http://x"})


def test_origins() -> None:
    def origins(value: object) -> tuple[str, ...]:
        return load_settings({}, {"WEBSOCKET_CORS_ORIGIN": value}).websocket_cors_origin
    assert origins("https://A.example/, http://localhost:3000,,https://a.example") == (
        "https://a.example", "http://localhost:3000")
    assert origins(["https://a.example"]) == ("https://a.example",)
    assert origins("*") == ("*",)
    assert origins("https://a.example:443,https://b\u00fccher.example,https://*.a.example,tauri://localhost") == (
        "https://a.example", "https://xn--bcher-kva.example", "https://*.a.example", "tauri://localhost")


def test_switch() -> None:
    assert load_settings({"WSAPP_DEFLATE": "On"}).deflate is True
    assert load_settings({}, {"deflate": False}).deflate is False


def test_the_masters_valkey_is_the_redis_of_its_workers() -> None:
    settings = load_settings({"WSAPP_EMBEDDED_URL": "redis://:p@127.0.0.1:5"})
    assert (settings.redis_url, settings.sources["redis_url"]) == ("redis://:p@127.0.0.1:5", "embedded")
    both = load_settings({"WSAPP_EMBEDDED_URL": "redis://e", "REDIS_URL": "redis://r"})
    assert (both.redis_url, both.sources["redis_url"]) == ("redis://r", "environment")


def test_secrets_are_never_shown() -> None:
    settings = load_settings({"WSAPP_JWT_SECRET": "hunter2 hunter2"})
    assert settings.jwt_secret == "hunter2 hunter2"
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(describe(settings))
    assert "hunter2" not in refused({"WSAPP_JWT_SECRET": "hunter2\n"})


def test_lists() -> None:
    settings = load_settings({"WSAPP_TOKEN_ROOMS": "agent:*, task:1,",
                              "WSAPP_ALLOWED_HOSTS": "App.example,*.b.example"})
    assert settings.token_rooms == ("agent:*", "task:1")
    assert settings.allowed_hosts == ("app.example", "*.b.example")
    rows = {row.name: row.value for row in describe(settings)}
    assert (rows["WSAPP_TOKEN_ROOMS"], rows["WSAPP_TOKEN_SOURCES"]) == ("agent:*,task:1", "auth")


@pytest.mark.parametrize(("settings", "told"), [
    (Settings(env="production"), "needs keys"),
    (Settings(jwt_secret="short"), "too short"),
    (Settings(jwt_secret="ab" * 20), "can be guessed"),
    (Settings(jwt_secret="-----BEGIN PUBLIC KEY----- MFkwEwYHKoZIzj0CAQYI"), "WSAPP_JWT_PUBLIC_KEY_FILE"),
    (Settings(jwt_jwks="nowhere.json"), "give the path of a file, or https"),
    (Settings(jwt_jwks=__file__), "is no JWK set"),
    (Settings(jwt_jwks="https:///keys"), "names no host"),
    (Settings(jwt_public_key_file="nowhere.pem"), "nowhere.pem"),
    (Settings(jwt_public_key_file=__file__), "no public key in PEM"),
])
def test_a_production_server_is_told_whom_to_let_in(settings: Settings, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        require_decision(settings)


def test_decisions() -> None:
    for settings in (Settings(), Settings(env="production", auth="anonymous"), Settings(env="production", auth="host"),
                     Settings(env="production", jwt_jwks="https://id.example/keys")):
        require_decision(settings)


def test_describe_shows_the_edge() -> None:
    rows = {row.name: row for row in describe(load_settings({"PING_INTERVAL": "100.5", "REDIS_URL": "redis://:p@h"}))}
    assert len(rows) == len(SPECS)
    assert rows["PING_INTERVAL"][1:4] == ("100.5", "ms", "environment")
    assert rows["REDIS_URL"].value == "redis://:***@h"
    assert rows["WSAPP_BROKER_TIMEOUT"][1:4] == ("250", "ms", "default")
    assert rows["WEBSOCKET_CORS_ORIGIN"].value == "same origin"
    assert rows["WSAPP_DEFLATE"].value == "off"
    assert all(row.help for row in rows.values())


def test_what_is_described_can_be_given_back() -> None:
    shown = {row.name: row.value for row in describe(Settings()) if row.value not in ("-", "same origin")}
    assert load_settings(shown) == Settings()


@pytest.mark.parametrize(("url", "masked"), [
    ("redis://h:1/0", "redis://h:1/0"), ("redis://u:a%40b@h", "redis://u:***@h"), ("redis://u@h", "redis://u@h"),
    ("unix:///s?password=x&db=1", "unix:///s?password=***&db=1"), ("redis://[bad", "***"),
])
def test_mask_url(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_limits() -> None:
    limits = load_settings({"WSAPP_HISTORY_SIZE": "7", "WSAPP_RESULT_TTL": "8"}).limits
    assert (limits.history_size, limits.result_ttl, limits.session_ttl) == (7, 8.0, 600.0)


def test_how_much_of_a_long_absence_is_replayed() -> None:
    pace = load_settings({"WSAPP_CATCH_UP_LIMIT": "30", "WSAPP_CATCH_UP_TAIL": "7"}).pace
    assert (pace.limit, pace.tail) == (30, 7)
