"""Heads of HTTP requests that two readers could take for different ones are refused."""

from __future__ import annotations

import io

import pytest

from wsapp.transport.request_head import (
    MAX_FIELDS,
    MAX_HEAD,
    BadHead,
    Head,
    check_request_line,
    judge_fields,
    read_fields,
)


@pytest.mark.parametrize("line", ["GET / HTTP/1.1\r\n", "OPTIONS * HTTP/1.0\n", "PUT /a?b=c#d HTTP/1.1",
                                  "M-SEARCH http://x/ HTTP/1.1\r\n", "GET /é HTTP/1.1\r\n"])
def test_request_lines(line: str) -> None:
    check_request_line(line)


@pytest.mark.parametrize("line", ["", "\r\n", "GET /\r\n", "GET / HTTP/1.2\r\n", "GET / HTTP/2.0\r\n", "GET / http/1.1",
                                  "GET  / HTTP/1.1", "GET / HTTP/1.1 ", "GET\t/ HTTP/1.1", "G\x00T / HTTP/1.1",
                                  "GET /a b HTTP/1.1", "GET /\x7f HTTP/1.1", "GET / HTTP/1.1\r\r\n",
                                  "X" * 33 + " / HTTP/1.1"])
def test_what_is_no_request_line(line: str) -> None:
    with pytest.raises(BadHead):
        check_request_line(line)


def test_fields_as_they_came() -> None:
    stream = io.BytesIO(b"Host: x\r\nX-A:  b c\t\r\nEmpty:\r\nlatin: \xe9\nTab: a\tb\r\n\r\nbody")
    assert read_fields(stream) == [("Host", "x"), ("X-A", "b c"), ("Empty", ""), ("latin", "é"), ("Tab", "a\tb")]
    assert stream.read() == b"body"


@pytest.mark.parametrize("head", [b"no colon\r\n\r\n", b"A : b\r\n\r\n", b" A: b\r\n\r\n", b"A: b\r\n folded\r\n\r\n",
                                  b": b\r\n\r\n", b"A: b\rC: d\r\n\r\n", b"A: \x00\r\n\r\n", b"A: b\r\n", b"A: b", b"",
                                  b"\r\r\n\r\n", b"A(: b\r\n\r\n"])
def test_malformed_fields(head: bytes) -> None:
    with pytest.raises(BadHead) as refused:
        read_fields(io.BytesIO(head))
    assert refused.value.status.startswith("400")


@pytest.mark.parametrize("head", [b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n", b"A: " + b"x" * MAX_HEAD + b"\r\n\r\n"])
def test_too_much_of_a_head(head: bytes) -> None:
    with pytest.raises(BadHead) as refused:
        read_fields(io.BytesIO(head))
    assert refused.value.status.startswith("431")


@pytest.mark.parametrize(("version", "fields"), [
    ("HTTP/1.1", "host: x"), ("HTTP/1.0", ""), ("HTTP/1.1", "host: x|content-length: 007"),
    ("HTTP/1.1", "HOST: x|Transfer-Encoding: Chunked"), ("HTTP/1.0", "content-length: 5"),
])
def test_one_way_to_the_end(version: str, fields: str) -> None:
    judge_fields(version, split(fields))


@pytest.mark.parametrize(("version", "fields", "status"), [
    ("HTTP/1.1", "", "400"), ("HTTP/1.1", "host: x|Host: x", "400"),
    ("HTTP/1.1", "host: x|content-length: 1|Content-Length: 1", "400"),
    ("HTTP/1.1", "host: x|content-length: 1, 1", "400"), ("HTTP/1.1", "host: x|content-length: ", "400"),
    ("HTTP/1.1", "host: x|content-length: -1", "400"), ("HTTP/1.1", "host: x|content-length: \u0661", "400"),
    ("HTTP/1.1", "host: x|content-length: 1_0", "400"), ("HTTP/1.1", "host: x|content-length: " + "9" * 19, "400"),
    ("HTTP/1.1", "host: x|content-length: 1|transfer-encoding: chunked", "400"),
    ("HTTP/1.0", "transfer-encoding: chunked", "400"), ("HTTP/1.1", "host: x|transfer-encoding: gzip", "501"),
    ("HTTP/1.1", "host: x|transfer-encoding: gzip, chunked", "501"),
    ("HTTP/1.1", "host: x|transfer-encoding: chunked|transfer-encoding: chunked", "501"),
])
def test_no_two_ways(version: str, fields: str, status: str) -> None:
    with pytest.raises(BadHead) as refused:
        judge_fields(version, split(fields))
    assert refused.value.status.startswith(status)


def split(fields: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (field.partition(": ") for field in fields.split("|") if field)]


def test_the_answer_is_whole() -> None:
    head, _, body = BadHead("what is wrong", "501 Not Implemented").answer().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 501 Not Implemented\r\nConnection: close\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body == b"what is wrong"


def test_the_head_answers_as_pywsgi_asks() -> None:
    head = Head([("Host", "a"), ("X-One", "1"), ("x-one", "2"), ("Content-Type", "text/plain")])
    assert (head.status, head.get("HOST"), head.getheader("x-none", "no")) == ("", "a", "no")
    assert head.typeheader == "text/plain"
    assert head.get("x-one") == "1", "the first"
    assert list(head.headers)[1:3] == ["X-One: 1\r\n", "x-one: 2\r\n"]
    del head["X-ONE"]
    assert (head.get("x-one"), head.items()) == (None, [("Host", "a"), ("Content-Type", "text/plain")])
