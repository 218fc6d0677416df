"""One table of errors: every code is told the same way, and its range says whether to come back."""

from __future__ import annotations

import pytest

from wsapp.errors import (
    RETRYABLE,
    BrokerUnavailable,
    CloseCode,
    ErrorCode,
    PayloadError,
    RequestError,
    SettingsError,
    WsappError,
)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_what_a_client_is_told(code: ErrorCode) -> None:
    error = RequestError(code, "no")
    assert error.told() == {"code": code.value, "message": "no", "retryable": code in RETRYABLE}
    assert type(error.told()["code"]) is str


@pytest.mark.parametrize(("error", "code", "retryable"), [
    (WsappError("x"), ErrorCode.INTERNAL, True),
    (BrokerUnavailable("x"), ErrorCode.BROKER_UNAVAILABLE, True),
    (SettingsError("x"), ErrorCode.BAD_REQUEST, False),
    (PayloadError("x"), ErrorCode.BAD_PAYLOAD, False),
])
def test_each_class_has_its_code(error: WsappError, code: ErrorCode, retryable: bool) -> None:
    assert (error.code, error.retryable) == (code, retryable)


def test_a_code_of_one_error_is_not_that_of_its_class() -> None:
    RequestError(ErrorCode.LIMIT, "x")
    assert RequestError.code is WsappError.code is ErrorCode.INTERNAL


def test_payload_errors_name_their_fields() -> None:
    fields = {"thought": ["missing"]}
    error = PayloadError("wrong", fields)
    fields["other"] = ["later"]
    assert error.told() == {"code": "bad_payload", "message": "wrong", "retryable": False,
                            "fields": {"thought": ["missing"]}}
    assert PayloadError("wrong").told()["fields"] == {}


def test_close_codes_are_in_ranges_that_rfc_6455_allows_to_send() -> None:
    for code in CloseCode:
        assert 1000 <= code <= 1014 and code not in (1004, 1005, 1006) or 4000 <= code <= 4999
    come_back = {CloseCode.SLOW_CLIENT, CloseCode.PING_TIMEOUT, CloseCode.REPLACED, CloseCode.STALE}
    stay_away = {CloseCode.TOKEN_EXPIRED, CloseCode.TOKEN_REVOKED, CloseCode.KICKED}
    assert {code for code in CloseCode if 4000 <= code < 4500} == come_back
    assert {code for code in CloseCode if code >= 4500} == stay_away
