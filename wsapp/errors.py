"""Every error wsapp raises or tells, in one table.

A code is told to clients in `{ok: false, error: {code, message, retryable}}`; its row says whether trying again
can help.  Close codes are those of RFC 6455 section 7.4 and the IANA registry: 1000-2999 belong to the protocol,
4000-4999 to us.  4000-4499 mean "reconnect and resume", 4500-4999 mean "do not come back without a change".
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """What a refused request is told; `RETRYABLE` says which may succeed unchanged later."""

    BAD_REQUEST = "bad_request"
    BAD_PAYLOAD = "bad_payload"
    UNKNOWN_EVENT = "unknown_event"
    RESERVED_EVENT = "reserved_event"
    UNAUTHORIZED = "unauthorized"
    TOKEN_MISSING = "token_missing"
    TOKEN_INVALID = "token_invalid"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_REVOKED = "token_revoked"
    KEYS_UNAVAILABLE = "keys_unavailable"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    NOT_SUBSCRIBED = "not_subscribed"
    LIMIT = "limit"
    RATE_LIMITED = "rate_limited"
    BROKER_UNAVAILABLE = "broker_unavailable"
    DRAINING = "draining"
    INTERNAL = "internal"


RETRYABLE = frozenset({
    ErrorCode.RATE_LIMITED, ErrorCode.BROKER_UNAVAILABLE, ErrorCode.DRAINING, ErrorCode.INTERNAL,
    ErrorCode.KEYS_UNAVAILABLE,
})


class CloseCode(IntEnum):
    """WebSocket close codes that wsapp sends."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    SLOW_CLIENT = 4000
    PING_TIMEOUT = 4001
    REPLACED = 4002
    STALE = 4003
    TOKEN_EXPIRED = 4500
    TOKEN_REVOKED = 4501
    KICKED = 4502


class WsappError(Exception):
    """Base of all errors of wsapp; `code` is from `ErrorCode`, `retryable` from its row."""

    code: ErrorCode = ErrorCode.INTERNAL

    @property
    def retryable(self) -> bool:
        return self.code in RETRYABLE

    def told(self) -> dict[str, object]:
        """The error as a client or the HTTP API is told it."""
        return {"code": str(self.code), "message": str(self), "retryable": self.retryable}


class RequestError(WsappError):
    """A request that was refused for the reason its code names."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class PayloadError(WsappError):
    """A payload that does not fit its schema; `fields` maps each field to what is wrong with it."""

    code = ErrorCode.BAD_PAYLOAD

    def __init__(self, message: str, fields: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.fields = dict(fields or {})

    def told(self) -> dict[str, object]:
        return {**super().told(), "fields": self.fields}


class SettingsError(WsappError):
    """A setting that is unknown or has a wrong value; the message is one line with the fix in it."""

    code = ErrorCode.BAD_REQUEST


class BrokerUnavailable(WsappError):
    """Redis was not reached in time.  Nothing is known to have been published unless the receipt says so.  `partition`
    is the one that was not reached."""

    code = ErrorCode.BROKER_UNAVAILABLE
    partition = 0


class Incompatible(BrokerUnavailable):
    """What is in Redis was made by processes with which this one cannot work."""


class FormatMismatch(Incompatible):
    """The data in Redis have a format that this release does not read (`wsapp.core.formats`)."""


class PartitionMismatch(Incompatible):
    """The data in Redis are divided into another number of partitions than this process was told (WSAPP_PARTITIONS)."""
