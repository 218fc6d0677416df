"""Tokens on real workers: who comes in, what they may, and what happens when the token ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.clients.fleet import Fleet, fresh, publish, spread
from tests.clients.raw_client import RawPolling, RawSocket
from tests.harness import OURS, ROOT, Server, http, wait_until
from tests.tokens import GUARDED, SECRET, auth, mint
from tests.valkey import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.node]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """Two workers that ask for tokens."""
    env = {**GUARDED, "WSAPP_TOKEN_WARNING": "30", "WSAPP_JWT_LEEWAY": "0"}
    with Server(2, app="tests.apps.guarded:app", env=env) as server:
        yield server
        tells_no_secret(server)


@pytest.fixture(scope="module")
def headed() -> Iterator[Server]:
    """One worker that takes tokens before the upgrade, too."""
    env = {**GUARDED, "WSAPP_TOKEN_SOURCES": "header,query", "WSAPP_LOG_LEVEL": "debug"}
    with Server(1, app="tests.apps.guarded:app", env=env) as server:
        yield server
        tells_no_secret(server)


def tells_no_secret(server: Server) -> None:
    """Whatever the tests of a module did: no token, no key is in any line of the log."""
    server.marked = 0
    log = server.log_tail(1_000_000)
    assert " is up: " in log, "this is the log"
    for secret in (SECRET, "eyJ"):
        assert secret not in log


def refusal(server: Server, presented: dict[str, Any] | None, cookie: str | None = None) -> dict[str, Any]:
    """The CONNECT_ERROR that a raw client gets."""
    raw = RawSocket(server, connect=False, **({"cookie": cookie} if cookie else {}))
    try:
        raw.send("40" + (json.dumps(presented) if presented is not None else ""))
        told: dict[str, Any] = json.loads(raw.packet("44")[2:])
        return told
    finally:
        raw.close()


def test_another_namespace_is_no_way_around_the_token(guarded: Server, fleet: Fleet) -> None:
    """`40/admin,` connected without a token, and survived the revocation of the user."""
    bystander = fleet.npm(guarded, auth=auth("bystander"))
    for given in ("", '{"token":"x"}'):
        raw = RawSocket(guarded, connect=False)
        raw.send(f"40/admin,{given}")
        assert json.loads(raw.packet("44/admin,")[9:])["data"]["code"] in ("token_missing", "token_invalid")
        raw.send('42/admin,1["secrets"]')
        assert raw.close_code() == 1002, "it is not connected to it"
    user = fresh("user")
    alone = RawSocket(guarded, connect=False)
    alone.send("40/admin," + json.dumps(auth(user)))
    alone.packet("40/admin,")
    both = RawSocket(guarded, auth(user))
    both.send("40/admin,")  # as the user of the connection
    both.packet("40/admin,")
    both.send('42/admin,1["secrets"]')
    assert both.packet("43/admin,1") == '43/admin,1["everything"]'
    both.send("41")  # the session ends, the namespace stays
    guarded.post("/revoke", {"user": user})
    assert (alone.close_code(), both.close_code()) == (4501, 4501)
    assert bystander.request("host-echo", 1) == 1


def test_a_namespace_can_be_open(fleet: Fleet) -> None:
    with Server(1, app="tests.apps.guarded:app", env={**GUARDED, "WSAPP_OPEN_NAMESPACES": "/public"}) as server:
        raw = RawSocket(server, connect=False)
        raw.send("40/public,")
        raw.packet("40/public,")
        raw.send('42/public,1["news"]')
        assert raw.packet("43/public,1") == '43/public,1["for everybody"]'
        raw.send("40/admin,")
        raw.packet("44/admin,")


@pytest.mark.parametrize("transport", ["polling", "upgrade", "websocket"])
@pytest.mark.parametrize("kind", ["npm", "python"])
def test_both_clients_on_every_transport(guarded: Server, fleet: Fleet, kind: str, transport: str) -> None:
    agent = fresh("agent")
    clients = fleet.many(guarded, kind, transport, 24, auth=auth(rooms=[f"agent:{agent}"]))
    for client in clients:
        client.subscribe("agent", agent)
    ids = publish(guarded, agent, 2)
    for client in clients:
        client.wait_ids(ids)
        assert not client.all("disconnect")
        told = client.request("subscribe-agent", fresh())
        assert (told["ok"], told["error"]["code"]) == (False, "forbidden")
    if transport == "websocket":
        assert set(spread(clients, guarded)) == set(guarded.worker_pids())


@pytest.mark.parametrize(("presented", "code"), [
    (None, "token_missing"),
    ({}, "token_missing"),
    ({"token": ""}, "token_missing"),
    ({"token": "garbage"}, "token_invalid"),
    ({"token": 7}, "token_invalid"),
    ({"token": mint() + "x"}, "token_invalid"),
    ({"token": mint(lasts=-60)}, "token_expired"),
    ({"token": mint(rooms="all")}, "token_invalid"),
])
def test_a_wrong_token_is_told_precisely(guarded: Server, fleet: Fleet, presented: Any, code: str) -> None:
    bystander = fleet.npm(guarded, auth=auth("bystander"))
    told = refusal(guarded, presented)
    assert set(told) == {"message", "data"}
    assert told["data"] == {"code": code, "message": told["message"], "retryable": False}
    assert bystander.request("host-echo", 1) == 1
    assert not bystander.all("disconnect")


def test_the_npm_client_is_told_why(guarded: Server, fleet: Fleet) -> None:
    client = fleet._node.open(guarded.url, auth={"token": "garbage"})
    [seen] = client.wait_for("connect_error")
    assert "not a JWT" in str(seen.args)
    client.close()


def test_cookies_and_headers_never_authenticate_by_themselves(guarded: Server) -> None:
    assert refusal(guarded, None, cookie=f"token={mint()}; session={mint()}")["data"]["code"] == "token_missing"
    polling = RawPolling(guarded, headers={"Authorization": f"Bearer {mint()}", "Cookie": f"token={mint()}"})
    polling.post("40")
    assert '"token_missing"' in polling.get().text


def test_before_the_upgrade_where_a_setting_allows_it(headed: Server) -> None:
    def status(url: str, **headers: str) -> int:
        answer = http(url, headers=headers)
        if answer.status == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            assert set(answer.json()) == {"code", "message"}
        return answer.status
    polling = headed.polling_url
    assert status(polling) == status(polling, Authorization="Bearer garbage") == 401
    assert status(polling, Cookie=f"token={mint()}") == 401
    assert status(f"{polling}&token={mint(lasts=-60)}") == 401
    assert status(f"{polling}&token={mint()}") == status(polling, Authorization=f"Bearer {mint()}") == 200
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        websocket.create_connection(headed.socket_url)
    assert refused.value.status_code == 401
    good = websocket.create_connection(headed.socket_url, header={"Authorization": f"Bearer {mint('hal')}"})
    good.recv()
    good.send("40" + json.dumps({"token": mint("somebody-else")}))  # `auth` is no source here
    assert good.recv().startswith("40")
    good.close()


def test_denials_are_told_and_audited(guarded: Server, fleet: Fleet) -> None:
    """What exists and what does not are denied alike: a tenant learns nothing of another's rooms."""
    project = fresh("project")
    guarded.emitter.broadcast_project_event(project, "moved", {})
    mallory, user = auth("mallory", rooms=["project:mine-*"]), fresh("user")
    client = fleet.npm(guarded, auth={"token": mint(user, rooms=["project:mine-*"])})
    assert mallory["token"]
    guarded.mark()
    errors = []
    for name in (project, fresh("project")):
        for told in (client.request("subscribe-project", name), client.request("subscribe-project", {
                "id": name, "since": 0}), client.request("history", {"room": f"project:{name}"})):
            assert told["ok"] is False
            errors.append({**told["error"], "message": told["error"]["message"].replace(name, "X")})
    assert errors == [{"code": "forbidden", "message": "not allowed in project:X", "retryable": False}] * 6
    lines = [line for line in guarded.log_tail().splitlines() if "denied:" in line and user in line]
    assert len(lines) == 6
    assert "eyJ" not in guarded.log_tail(), "no token in the log"
    client.subscribe("project", "mine-1")


def test_a_token_without_rooms_may_nothing(guarded: Server, fleet: Fleet) -> None:
    client = fleet.python(guarded, auth={"token": mint(rooms=None)})
    assert client.request("subscribe-agent", "a")["error"]["code"] == "forbidden"


def test_an_expiring_token_is_announced_and_then_closes_4500(guarded: Server, fleet: Fleet) -> None:
    bystander = fleet.npm(guarded, auth=auth("bystander"))
    with RawSocket(guarded, auth("short", 2.0)) as raw:
        [told] = raw.event("token-expiring")
        assert 0 < told["expiresInMs"] <= 2000
        [told] = raw.event("session-closed")
        assert told == {"code": 4500, "reason": "token_expired"}
        assert raw.close_code() == 4500
    polling = RawPolling(guarded)
    polling.post("40" + json.dumps(auth("short", 2.0)))
    seen = ""
    while "session-closed" not in seen:
        seen += polling.get().text
    assert not bystander.all("disconnect")


def test_refreshing_on_the_same_socket(guarded: Server) -> None:
    kept, lost = fresh("kept"), fresh("lost")
    with RawSocket(guarded, auth("ann", 3.0)) as raw:
        began = time.monotonic()
        for name in (kept, lost):
            assert raw.request(json.dumps(["subscribe-agent", name]))["ok"] is True
        refused = raw.request(json.dumps(["refresh-token", mint("bob")]))
        assert refused["error"]["code"] == "forbidden"
        refused = raw.request(json.dumps(["refresh-token", mint("ann", -60)]))
        assert refused["error"]["code"] == "token_expired"
        assert raw.request(json.dumps(["refresh-token", ""]))["error"]["code"] == "bad_payload"
        raw.send('428' + json.dumps(["refresh-token", {"token": mint("ann", 60, rooms=[f"agent:{kept}"])}]))
        assert raw.event("unsubscribed") == [{"room": f"agent:{lost}", "reason": "forbidden"}]
        told = json.loads(raw.packet("438")[3:])[0]
        assert told["lost"] == [f"agent:{lost}"] and 55_000 < told["expiresInMs"] <= 60_000
        publish(guarded, lost, 1)
        publish(guarded, kept, 1)
        assert raw.event("agent-thought")[0]["agentId"] == kept
        while time.monotonic() - began < 3.5:  # past the first token's end
            assert raw.request('["host-echo",1]') == 1
            time.sleep(0.1)


def test_rooms_are_judged_anew_on_resume(guarded: Server, fleet: Fleet) -> None:
    kept, lost = fresh("kept"), fresh("lost")
    client = fleet.python(guarded, auth=auth("ann"))
    for name in (kept, lost):
        client.subscribe("agent", name)
    session = client.wait_session()["sessionId"]
    client.close()
    publish(guarded, lost, 1)
    ids = publish(guarded, kept, 1)
    again = fleet.npm(guarded, auth={"token": mint("ann", rooms=[f"agent:{kept}"]), "sessionId": session})
    told = again.wait_session()
    assert (told["recovered"], told["missed"], list(told["rooms"])) == (True, 1, [f"agent:{kept}"])
    again.wait_ids(ids)
    assert again.ids() == ids
    assert [seen.args[0] for seen in again.wait_for("unsubscribed")] == [
        {"room": f"agent:{lost}", "reason": "forbidden"}]


def test_a_session_is_its_users(guarded: Server, fleet: Fleet) -> None:
    victim = fleet.python(guarded, auth=auth("victim"))
    victim.subscribe("agent", fresh())
    session = victim.wait_session()["sessionId"]
    victim.close()
    thief = fleet.python(guarded, auth={"token": mint("thief"), "sessionId": session})
    told = thief.wait_session()
    assert (told["recovered"], told.get("reason")) == (False, "other_user")
    assert told["sessionId"] != session


def test_the_hosts_own_identify_and_authorizer(fleet: Fleet) -> None:
    with Server(1, app="tests.apps.owned:app") as server:
        assert refusal(server, None) == {"message": "who are you?"}
        right = {"name": "ann", "password": "right"}
        client = fleet.python(server, auth=right)
        client.subscribe("agent", "open")
        assert client.request("subscribe-agent", "secret")["error"]["code"] == "forbidden"
        assert client.request("refresh-token", "x")["error"]["code"] == "bad_request"
        session = client.wait_session()["sessionId"]
        client.close()
        server.post("/forbid", {"room": "agent:open"})
        again = fleet.python(server, auth={**right, "sessionId": session})
        assert again.wait_session()["rooms"] == {}
        assert again.wait_for("unsubscribed")[0].args[0]["room"] == "agent:open"


@pytest.mark.parametrize(("env", "told"), [
    ({}, "wsapp: WSAPP_ENV=production needs keys"),
    ({"WSAPP_JWT_SECRET": "short"}, "wsapp: WSAPP_JWT_SECRET is too short"),
    ({"WSAPP_JWT_PUBLIC_KEY_FILE": "nowhere.pem"}, "wsapp: WSAPP_JWT_PUBLIC_KEY_FILE='nowhere.pem'"),
    ({"WSAPP_JWT_PUBLIC_KEY_FILE": "{weak}"}, "wsapp: WSAPP_JWT_PUBLIC_KEY_FILE="),
    ({"WSAPP_JWT_JWKS": "README.md"}, "wsapp: WSAPP_JWT_JWKS='README.md' is no JWK set"),
    ({"WSAPP_AUTH": "basic"}, "wsapp: WSAPP_AUTH='basic'"),
])
def test_production_does_not_start_open(env: dict[str, str], told: str, tmp_path: Path) -> None:
    weak = tmp_path / "weak.pem"
    weak.write_bytes(rsa.generate_private_key(65537, 1024).public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    env = {name: value.format(weak=weak) for name, value in env.items()}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    done = subprocess.run([sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:app"], cwd=ROOT, timeout=30,
                          env={**clean, "WSAPP_ENV": "production", "REDIS_URL": "redis://127.0.0.1:1", **env},
                          capture_output=True, text=True, check=False)
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if line.startswith("wsapp: ")]
    assert line.startswith(told)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("run", "--agent", "a", "--", "true"), ("config",), ("serve",)])
def test_every_command_says_what_is_wrong_in_a_line(arguments: tuple[str, ...]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    done = subprocess.run([sys.executable, "-m", "wsapp", *arguments], cwd=ROOT, timeout=30, text=True, check=False,
                          env={**clean, "WSAPP_AUTH": "basic"}, capture_output=True)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "WSAPP_AUTH" in line]
    assert lines == ["wsapp: WSAPP_AUTH='basic' is none of anonymous, jwt, host"]
    assert "Traceback" not in done.stderr


def test_an_applications_own_wrong_key_is_a_line_too() -> None:
    """What a worker finds in `app.config` ends the server as well: without a traceback, and for good."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    done = subprocess.run([sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "tests.apps.misconfigured:app"],
                          cwd=ROOT, timeout=60, capture_output=True, text=True, check=False,
                          env={**clean, "REDIS_URL": "redis://127.0.0.1:1", "WEBSOCKET_PORT": str(free_port())})
    assert done.returncode != 0
    assert done.stderr.count("wsapp: WSAPP_JWT_SECRET is too short") == 1
    assert "Traceback" not in done.stderr


def test_production_starts_when_it_was_said(fleet: Fleet) -> None:
    with Server(1, env={"WSAPP_ENV": "production", "WSAPP_AUTH": "anonymous"}) as server:
        fleet.python(server).subscribe("agent", "a")


def test_refusals_are_counted(guarded: Server) -> None:
    def refused() -> Any:
        return guarded.get("/worker").json()["tokensRefused"]
    for _ in range(4):
        refusal(guarded, None)
    wait_until(lambda: refused() > 0, "a refusal counted")
    assert guarded.metric("wsapp_tokens_refused_total") >= 4


@pytest.mark.parametrize("ending", ["HTTP/9.9", "HTTP/1.1\r\nno colon", "HTTP/1.1\r\nHost: x\r\nContent-Length: x"])
def test_a_malformed_request_leaves_no_token_in_the_log(headed: Server, ending: str) -> None:
    """The fixture looks at the whole log in the end."""
    with socket.create_connection(("127.0.0.1", headed.port), 30) as sock:
        sock.sendall(f"GET /socket.io/?EIO=4&transport=polling&token={mint()} {ending}\r\n\r\n".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
