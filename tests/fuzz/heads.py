"""HTTP heads: what is taken, the standard library reads the same way; and addresses, origins and hosts from it."""

from __future__ import annotations

import io
from http.client import HTTPException, parse_headers

from wsapp.transport.gate import client_address
from wsapp.transport.origins import Origins
from wsapp.transport.request_head import BadHead, check_request_line, judge_fields, read_fields

ORIGINS = (Origins(), Origins(("*",)), Origins(("https://app.example", "https://*.example")),
           Origins((), ("app.example",)), Origins((), (), True))

SEEDS = [
    b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: app.example\r\nOrigin: https://app.example\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a:3001\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\nhost:x\nX-Forwarded-For: 1.2.3.4, [::1]:80, ::ffff:1.2.3.4, fe80::1%eth0\n\n",
    b"GET / HTTP/1.1\r\nHost: [::1]:3001\r\nOrigin: null\r\nForwarded: for=x\r\nX-Forwarded-Host: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
]


def check(data: bytes) -> None:
    line, _, rest = data.partition(b"\n")
    try:
        check_request_line(line.decode("latin-1"))
        fields = read_fields(io.BytesIO(rest))
        judge_fields(line.split()[2].decode(), fields)
    except BadHead as error:
        assert error.answer().startswith(b"HTTP/1.1 ")
        return
    try:
        theirs = [(name, value.strip(" \t")) for name, value in parse_headers(io.BytesIO(rest)).items()]
    except HTTPException:
        theirs = fields
    assert theirs == fields, "two readers, two requests"
    environ = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in fields}
    environ |= {"REMOTE_ADDR": "10.0.0.1", "wsgi.url_scheme": "http", "REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    for proxies in (0, 1, 3):
        assert len(client_address(environ, proxies)) <= 64
    for origins in ORIGINS:
        try:
            origins.judge(environ)
            origins.headers(environ)
        except PermissionError:
            continue
