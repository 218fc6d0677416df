"""WebSocket frames without I/O: RFC 6455 section 5.

`Frame` is one Engine.IO packet ready for every transport, encoded once and shared by all receivers (frames of a
server are not masked, so they are the same for everybody).  `FrameParser` takes bytes and gives messages.
"""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Iterable
from typing import Final

from wsapp.errors import CloseCode

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
RSV1: Final = 0x40
MASKED: Final = 0x80
HEAD_SIZES: Final = {126: 8, 127: 14}  # bytes of a masked frame's head; else 6
TURN: Final = 65_536  # bytes of inflated messages in one go; a message that has begun is finished
UTF8: Final = codecs.getincrementaldecoder("utf-8")

Inflate = Callable[[bytes, int], bytes]
Squeeze = Callable[[bytes], bytes | None]  # None: not worth it


class FrameError(Exception):
    """The peer broke the protocol or a limit; `code` is the close code it is told (RFC 6455 section 7.4.1)."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


def encode(payload: bytes, opcode: int = TEXT, rsv1: bool = False) -> bytes:
    """One unmasked, final frame."""
    first = FIN | opcode | (RSV1 if rsv1 else 0)
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def encode_close(code: int, reason: str = "") -> bytes:
    """A close frame; the reason is cut to the 123 bytes that fit, at a character's edge."""
    told = reason.encode()[:123].decode(errors="ignore").encode()
    return encode(code.to_bytes(2, "big") + told, CLOSE)


def unmask(payload: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    """XOR with the repeated mask, as one big integer: linear, and without a Python loop."""
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


class Frame:
    """One Engine.IO packet for any number of receivers, whatever their transport."""

    __slots__ = ("_squeezed", "_text", "_ws", "binary", "payload")

    def __init__(self, payload: bytes, binary: bool = False) -> None:
        self.payload, self.binary = payload, binary
        self._ws: bytes | None = None
        self._text: bytes | None = None
        self._squeezed: bytes | None = None

    @property
    def ws(self) -> bytes:
        """As a WebSocket frame."""
        if self._ws is None:
            self._ws = encode(self.payload, BINARY if self.binary else TEXT)
        return self._ws

    def squeezed(self, squeeze: Squeeze) -> bytes:
        """As a compressed WebSocket frame, or a plain one where that is not worth it."""
        if self._squeezed is None:
            small = squeeze(self.payload)
            opcode = BINARY if self.binary else TEXT
            self._squeezed = self.ws if small is None else encode(small, opcode, rsv1=True)
        return self._squeezed

    @property
    def text(self) -> bytes:
        """As a packet of an HTTP payload: binary travels as `b` and base64 (Engine.IO v4, "Packet encoding")."""
        if not self.binary:
            return self.payload
        if self._text is None:
            self._text = b"b" + base64.b64encode(self.payload)
        return self._text


def joined(frames: Iterable[Frame], squeeze: Squeeze | None) -> bytes:
    """WebSocket frames one behind the other, for one send; compressed for a peer that takes that."""
    return b"".join([frame.ws if squeeze is None else frame.squeezed(squeeze) for frame in frames])


class FrameParser:
    """Bytes in, messages out: `feed` returns `(opcode, payload)` of complete messages and control frames.

    A few compressed bytes may be a great many: once `TURN` bytes were inflated `feed` stops, and `more` says that it is
    to be called again (without data) before anything else is read.

    Text payloads are checked UTF-8, as they come and not only at their end, but left as bytes.  The length a header
    announces is judged before the payload is awaited, and fragments count against the same limit.  After an error
    `failure` is set, what came before it is still returned, and nothing is parsed any more.
    """

    __slots__ = ("_buffer", "_checked_to", "_inflate", "_inflated", "_kind", "_parts", "_size", "_squeezed", "_text",
                 "failure", "max_size", "more")

    def __init__(self, max_size: int, inflate: Inflate | None = None) -> None:
        self.max_size, self._inflate = max_size, inflate
        self._buffer: bytearray | None = None
        self._kind = 0
        self._parts: list[bytes] | None = None
        self._size = 0
        self._squeezed = False
        self._text: codecs.IncrementalDecoder | None = None  # of a text message that comes in pieces
        self._inflated = 0  # bytes, by this `feed`
        self.more = False
        self._checked_to = 0  # bytes of the unfinished frame that it has seen
        self.failure: FrameError | None = None

    def feed(self, data: bytes | bytearray) -> list[tuple[int, bytes]]:
        """Messages that `data` completes."""
        # An unfinished frame grows in place: a long one that comes byte by byte must not be copied for each.
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer += data
            data = buffer
        messages: list[tuple[int, bytes]] = []
        position = self._inflated = 0
        self.more = False
        try:
            while self.failure is None and not self.more:
                end = self._frame(data, position, messages)
                if end == position:
                    break
                position = end
                self.more = self._inflated >= TURN and position < len(data)
            if position < len(data) and self.failure is None and not self.more:
                self._peep(data, position)
        except FrameError as error:
            self.failure = error
        if position < len(data) and self.failure is None:
            if buffer is None:
                buffer = bytearray(data[position:])
            else:
                del buffer[:position]
            self._buffer = buffer
        return messages

    def _frame(self, data: bytes | bytearray, start: int, messages: list[tuple[int, bytes]]) -> int:
        """Parse one frame; returns where the next begins, or `start` when it is not all there yet."""
        have = len(data) - start
        if have < 2:
            return start
        first, second = data[start], data[start + 1]
        self._judge_head(first, second)
        size, body = second & 0x7F, start + 6
        if size == 126:
            if have < 4:
                return start
            size, body = int.from_bytes(data[start + 2:start + 4], "big"), start + 8
        elif size == 127:
            if have < 10:
                return start
            size, body = int.from_bytes(data[start + 2:start + 10], "big"), start + 14
        self._judge_size(first, size)
        end = body + size
        if len(data) < end:
            return start
        self._take(first, unmask(data[body:end], data[body - 4:body]), messages)
        return end

    def _peep(self, data: bytes | bytearray, start: int) -> None:
        """Check what is there of an unfinished frame of text: a wrong byte is told before the rest has come."""
        body = start + HEAD_SIZES.get(data[start + 1] & 0x7F, 6) if len(data) > start + 1 else len(data)
        first = data[start]
        opcode = first & 0x0F
        squeezed = self._squeezed if opcode == CONTINUATION else first & RSV1
        if len(data) <= body or squeezed or (opcode or self._kind) != TEXT:
            return
        seen = self._checked_to - self._checked_to % 4  # where the mask begins anew
        piece = unmask(data[body + seen:], data[body - 4:body])[self._checked_to - seen:]
        self._checked_to += len(piece)
        self._decode(piece, False)

    def _decode(self, piece: bytes, last: bool) -> None:
        """The next bytes of a text message that comes in pieces."""
        if self._text is None:
            self._text = UTF8()
        try:
            self._text.decode(piece, last)
        except UnicodeDecodeError as error:
            raise FrameError(CloseCode.INVALID_DATA, "text is not UTF-8") from error
        if last:
            self._text = None

    def _judge_head(self, first: int, second: int) -> None:
        opcode = first & 0x0F
        if not second & MASKED:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "frames of a client must be masked")
        if first & 0x30 or (first & RSV1 and (self._inflate is None or opcode not in (TEXT, BINARY))):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a reserved bit is set")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise FrameError(CloseCode.PROTOCOL_ERROR, f"unknown opcode {opcode}")
            if not first & FIN or second & 0x7F > 125:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "control frames are short and not fragmented")
        elif opcode > BINARY:
            raise FrameError(CloseCode.PROTOCOL_ERROR, f"unknown opcode {opcode}")
        elif (opcode == CONTINUATION) != (self._parts is not None):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a fragment is out of place")

    def _judge_size(self, first: int, size: int) -> None:
        if not first & 0x08 and self._size + size > self.max_size:
            raise FrameError(CloseCode.TOO_BIG, f"a message may have {self.max_size} bytes")

    def _take(self, first: int, payload: bytes, messages: list[tuple[int, bytes]]) -> None:
        opcode = first & 0x0F
        if opcode >= CLOSE:
            messages.append((opcode, payload))
            return
        if opcode != CONTINUATION:
            self._kind, self._squeezed = opcode, bool(first & RSV1)
            if first & FIN:
                messages.append((opcode, self._finished(payload, payload)))
                return
            self._parts, self._size = [], 0
        assert self._parts is not None
        self._parts.append(payload)
        # An endless run of empty fragments must not grow the list for free.
        self._size += len(payload) or 1
        if first & FIN:
            whole, self._parts, self._size = b"".join(self._parts), None, 0
            messages.append((self._kind, self._finished(whole, payload)))
        elif self._kind == TEXT and not self._squeezed:
            piece, self._checked_to = payload[self._checked_to:], 0
            self._decode(piece, False)

    def _finished(self, message: bytes, last: bytes) -> bytes:
        """A complete message, whose `last` frame may have been seen in part."""
        if self._squeezed:
            assert self._inflate is not None
            message = self._inflate(message, self.max_size)
            self._inflated += len(message)
            last = message
        if self._kind == TEXT:
            piece, self._checked_to = last[self._checked_to:], 0
            if self._text is not None:
                self._decode(piece, True)
            else:
                _require_utf8(piece)
        return message


def _require_utf8(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise FrameError(CloseCode.INVALID_DATA, "text is not UTF-8") from error


def parse_close(payload: bytes) -> int:
    """The code of a close frame's payload, 1005 for none.  Raises FrameError on one that RFC 6455 forbids."""
    if not payload:
        return 1005
    code = int.from_bytes(payload[:2], "big")
    defined = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
    if len(payload) < 2 or not (defined or 3000 <= code <= 4999):
        raise FrameError(CloseCode.PROTOCOL_ERROR, "not a close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError as error:
        raise FrameError(CloseCode.INVALID_DATA, "the close reason is not UTF-8") from error
    return code
