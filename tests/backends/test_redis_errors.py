from __future__ import annotations

import ssl

import hiredis
import pytest
from redis import exceptions

from wsapp.backends.redis_errors import Explained, unavailable
from wsapp.errors import FormatMismatch, PartitionMismatch

REPLY = hiredis.ReplyError


@pytest.mark.parametrize(("error", "fix"), [
    (REPLY("NOAUTH Authentication required."), "asks for a password"),
    (REPLY("WRONGPASS invalid username-password pair"), "refused the user or the password"),
    (exceptions.AuthenticationError("invalid username-password pair"), "refused the user or the password"),
    (REPLY("NOPERM User x has no permissions to run the 'info' command"), "docs/operations.md"),
    (REPLY("NOPERM User x has no permissions to run the 'info' command"), "'info'"),
    (REPLY("ERR The user executing the script can't run this command or subcommand script: ab"), "docs/operations.md"),
    (REPLY("ERR AUTH <password> called without any password configured"), "it has no password"),
    (REPLY("ERR DB index is out of range"), "no database of that number"),
    (exceptions.ConnectionError("Error 1 connecting to h:1. [SSL: WRONG_VERSION_NUMBER] wrong version number"),
     "speaks no TLS"),
    (exceptions.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate in chain"), "ssl_ca_certs="),
    (exceptions.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch"),
     "for another name"),
    (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "asks for a client certificate"),
    (exceptions.ConnectionError("Error 524297 connecting to h:1. [SSL] PEM lib"), "ssl_keyfile"),
    (ConnectionResetError("the server closed the connection"), "rediss://"),
    (Explained("what to do"), "what to do"),
    (REPLY("MOVED 3999 127.0.0.1:6381"), "write redis+cluster://host:port"),
    (REPLY("CROSSSLOT Keys in request don't hash to the same slot"), "write redis+cluster://host:port"),
    (REPLY("CLUSTERDOWN Hash slot not served"), "cluster-require-full-coverage no"),
    (REPLY("TRYAGAIN Multiple keys request during rehashing of slot"), "try again in a moment"),
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


def test_another_number_of_partitions_is_an_error_of_its_own() -> None:
    error = unavailable(REPLY("PARTITIONS 8 and not 1"), "h:1", 0.25)
    assert isinstance(error, PartitionMismatch)
    assert str(error) == ("Redis at h:1: its rooms are divided into 8 partitions, and this process has"
                          " WSAPP_PARTITIONS=1: set it to 8 as everywhere else, or stop everything and divide anew"
                          " (wsapp partitions --set 1)")


def test_data_of_another_release_are_an_error_of_its_own() -> None:
    error = unavailable(REPLY("FORMAT 4 1 2"), "h:1", 0.25)
    assert isinstance(error, FormatMismatch)
    assert str(error).startswith("Redis at h:1: its data have format 4, and this release reads 1 to 2: deploy releases")
