from __future__ import annotations

import hiredis
import pytest
from redis import exceptions

from wsapp.backends.redis_errors import unavailable

REPLY = hiredis.ReplyError


@pytest.mark.parametrize(("error", "fix"), [
    (REPLY("NOAUTH Authentication required."), "asks for a password"),
    (REPLY("WRONGPASS invalid username-password pair"), "refused the user or the password"),
    (exceptions.AuthenticationError("invalid username-password pair"), "refused the user or the password"),
    (REPLY("NOPERM User x has no permissions"), "grant it"),
    (REPLY("LOADING is loading the dataset in memory"), "wait"),
    (exceptions.BusyLoadingError("is loading"), "wait"),
    (REPLY("READONLY You can't write against a read only replica. script: ab"), "point the Redis URL at the primary"),
    (REPLY("OOM command not allowed"), "raise maxmemory"),
    (REPLY("MISCONF Errors writing to the AOF file"), "look into its log"),
    (REPLY("BUSY Redis is busy running a script"), "SCRIPT KILL"),
    (TimeoutError(), "no answer within 0.25 s"),
    (exceptions.TimeoutError("Timeout connecting to server"), "no answer within 0.25 s"),
    (ConnectionRefusedError(111, "refused"), "see that it runs"),
    (exceptions.ConnectionError("Error 111"), "see that it runs"),
    (REPLY("ERR something new"), "something new"),
    (REPLY(""), "ReplyError"),
])
def test_the_message_names_the_fix(error: Exception, fix: str) -> None:
    message = str(unavailable(error, "127.0.0.1:6379", 0.25))
    assert message.startswith("Redis at 127.0.0.1:6379: ")
    assert fix in message
    assert "\n" not in message
