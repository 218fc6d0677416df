"""nginx and Caddy before a server, as config/deployment has them: only addresses and paths are replaced."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Self

import pytest

from tests.certificate import Signed
from tests.harness import ROOT, Server, http, wait_until
from tests.valkey import free_port

UNPACKED: Final = ROOT / ".cache" / "proxies"  # where `.ci/setup proxies` puts them
EXAMPLES: Final = ROOT / "config" / "deployment"
NAME: Final = "events.example.com"
NGINX: Final = """
daemon off;
pid {folder}/pid;
error_log {folder}/log;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/wsapp.conf;
}}
"""
CADDY: Final = """
{
	admin off
	auto_https disable_redirects
}
"""


def find(name: str) -> str | None:
    """The program's path, or None."""
    places = (shutil.which(name), f"/usr/sbin/{name}", UNPACKED / "usr/sbin" / name, UNPACKED / "usr/bin" / name)
    return next((str(place) for place in places if place and Path(place).is_file()), None)


def replaced(text: str, pairs: dict[str, str]) -> str:
    """`text` with each of `pairs` replaced; what is not in it would leave the example untested."""
    for old, new in pairs.items():
        assert old in text, f"the example has no {old!r} any more"
        text = text.replace(old, new)
    return text


def _nginx(folder: Path, port: int, upstream: int, signed: Signed, extra: dict[str, str]) -> list[str]:
    example = (EXAMPLES / "nginx.conf").read_text()
    (folder / "wsapp.conf").write_text(replaced(example, {
        "server 127.0.0.1:3001;": f"server 127.0.0.1:{upstream};", "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        f"/etc/ssl/{NAME}.pem": str(signed.certificate), f"/etc/ssl/{NAME}.key": str(signed.key),
        f"server_name {NAME};": "server_name localhost 127.0.0.1;", **extra}))
    user = "user root;" if os.getuid() == 0 else ""  # its workers must get at the folder
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, user=user))
    return ["-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "log")]


def _caddy(folder: Path, port: int, upstream: int, signed: Signed, extra: dict[str, str]) -> list[str]:
    example = (EXAMPLES / "Caddyfile").read_text()
    (folder / "Caddyfile").write_text(CADDY + replaced(example, {
        **extra, f"\n{NAME} {{": f"\nhttps://127.0.0.1:{port} {{", "127.0.0.1:3001": f"127.0.0.1:{upstream}",
        f"# tls /etc/ssl/{NAME}.pem /etc/ssl/{NAME}.key": f"tls {signed.certificate} {signed.key}"}))
    return ["run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


Configure = Callable[[Path, int, int, Signed, dict[str, str]], list[str]]
BALANCED: Final = """
map $http_upgrade $connection_upgrade {{
    default upgrade;
    ""      "";
}}
upstream wsapp {{
    {rule}
    {servers}
    keepalive 64;
}}
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass {scheme}://wsapp;
        proxy_http_version 1.1;
        proxy_set_header Host              $http_host;
        proxy_set_header Upgrade           $http_upgrade;
        proxy_set_header Connection        $connection_upgrade;
        proxy_set_header X-Forwarded-For   $proxy_add_x_forwarded_for;
        proxy_buffering off;
        proxy_connect_timeout 2s;
        proxy_next_upstream off;
    }}
}}
"""


class Balancer:
    """nginx before several servers, without sticky sessions.  Clients go to `url`."""

    ca = None

    def __init__(self, folder: Path, servers: Iterable[Server], rule: str = "") -> None:
        program = find("nginx")
        if program is None:
            pytest.skip("no nginx here: `.ci/setup proxies` fetches it on Debian, as root")
        self.port, self._log = free_port(), folder / "log"
        behind = list(servers)
        listed = "\n".join(f"server {server.host}:{server.port} max_fails=1 fail_timeout=1s;" for server in behind)
        scheme = "https" if behind[0].ca else "http"
        (folder / "wsapp.conf").write_text(BALANCED.format(rule=rule, servers=listed, port=self.port, scheme=scheme))
        user = "user root;" if os.getuid() == 0 else ""
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, user=user))
        self._process = subprocess.Popen(
            [program, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(self._log)],
            stdin=subprocess.DEVNULL, start_new_session=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        wait_until(self._answers, "nginx answers")
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return http(f"{self.url}/healthz", timeout=5).status == 200
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        end_group(self._process)


CONFIGURE: Final[dict[str, Configure]] = {"nginx": _nginx, "caddy": _caddy}


class Proxy:
    """A running one; clients go to `url` and trust `ca`.  `extra` replaces more of the example's text."""

    def __init__(self, kind: str, program: str, folder: Path, upstream: int, signed: Signed, ca: Path,
                 extra: dict[str, str] | None = None) -> None:
        self.ca, self.port = ca, free_port()
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, *CONFIGURE[kind](folder, self.port, upstream, signed, extra or {})], cwd=folder,
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)})

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"wss://127.0.0.1:{self.port}/socket.io/?EIO=4&transport=websocket"

    def __enter__(self) -> Self:
        wait_until(self._answers, f"a proxy on {self.port}: {self.log.read_text()}")
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            return http(f"{self.url}/healthz", ca=self.ca, timeout=5).status == 200
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        end_group(self._process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group of its own, and its children."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def seconds_of(directive: str, text: str) -> float:
    """`75` of a line `directive 75s;`."""
    found = re.search(rf"^\s*{directive}\s+(\d+)s;", text, re.MULTILINE)
    assert found is not None, directive
    return float(found[1])
