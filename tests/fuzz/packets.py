"""Socket.IO packets: read whole, or BadPacket; attachments put where they belong, or BadPacket."""

from __future__ import annotations

import json

from wsapp.core.packets import MAX_ATTACHMENTS, BadPacket, Kind, decode

SEEDS = [
    b"0", b"0{}", b'0/custom,{"token":"x"}', b"0/custom?a=b", b"1", b"1/custom,", b'2["message",1,"2",{"3":[true]}]',
    b'213["a"]', b"3/custom,7[]", b'51-["a",{"_placeholder":true,"num":0}]', b'62-/x,9[{"_placeholder":true,"num":1}]',
    b'2["x",1e400]', b'2["x",NaN]', b'2["connect"]', b'2["a",' + b"[" * 40 + b"]" * 40 + b"]", b'2["\\ud800"]',
    b'51-["a",{"_placeholder":true,"num":true}]', b'51-["a",{"_placeholder":true,"num":0,"x":[{}]}]',
]


def check(data: bytes) -> None:
    try:
        text = data.decode()
        packet = decode(text)
    except (UnicodeDecodeError, BadPacket):
        return
    assert packet.missing <= MAX_ATTACHMENTS
    assert packet.namespace.startswith("/")
    if packet.kind in (Kind.EVENT, Kind.BINARY_EVENT):
        assert packet.data
        assert isinstance(packet.data[0], str)
    if not packet.missing:
        json.dumps(packet.data)
        return
    try:
        taken = [packet.attach(bytes((number,))) for number in range(packet.missing)]
    except BadPacket:
        return
    assert taken == [False] * (packet.missing - 1) + [True]
