"""The numbers of the formats, and samples of format 1: who changes what is written has to raise the number."""

from __future__ import annotations

from wsapp.core import formats
from wsapp.core.events import parse_record
from wsapp.core.forwarding import Client, forwarded_header
from wsapp.core.questions import answer

RECORD = (b"068874883360001d9e28edbb\t1795785000000\t5\t-\tl\ta1\tagent-thought\tagent:a1\t7\t5f0c-x1\n"
          b'{"agentId":"a1","thought":"t"}')


def test_a_release_reads_what_it_writes_and_a_change_ships_dark() -> None:
    assert formats.OLDEST <= formats.STORED <= formats.NEWEST <= formats.STORED + 1


def test_a_record_of_format_1() -> None:
    publication = parse_record(RECORD)
    assert publication.record() == RECORD
    assert (publication.id, publication.seq("agent:a1")) == ("068874883360001d9e28edbb", 7)


def test_a_control_message_of_format_1() -> None:
    assert answer("1f", "0000000a", {"n": 1}) == b'answer {"id":"1f","from":"0000000a","value":{"n":1}}'


def test_a_header_of_format_1() -> None:
    header = forwarded_header(b"secret", "GET", "/socket.io/?sid=0000000aX", Client("203.0.113.7", 4711, "https"))
    assert header == ("1 203.0.113.7 4711 https "
                      "9a5ea19e978afa8a9d319a5ec7c536ce2290021936d7669711fa89b92c2a0f9a")
