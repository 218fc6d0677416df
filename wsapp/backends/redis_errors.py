"""Turns what can go wrong with Redis into one `BrokerUnavailable` whose message names the fix."""

from __future__ import annotations

import signal
from typing import Any, Final

from redis import exceptions

from wsapp.errors import BrokerUnavailable, FormatMismatch, PartitionMismatch

# The first word of an error reply (RESP, "Simple errors") -> what to do about it.
_FIXES: Final = {
    "NOAUTH": "it asks for a password: put it into the Redis URL (redis://user:password@host:port/0)",
    "WRONGPASS": "it refused the user or the password of the Redis URL: correct them",
    "ERR AUTH": "it has no password: take the one in the Redis URL out, or give it that (requirepass)",
    "NOPERM": "the user of the Redis URL may not do this: grant what the ACL rule in docs/operations.md says",
    "LOADING": "it is still loading its data: wait until it is ready",
    "READONLY": "it is a read-only replica: point the Redis URL at the primary",
    "MASTERDOWN": "it is a replica without its primary: point the Redis URL at the primary",
    "OOM": "it is out of memory: raise maxmemory or lower the history limits",
    "MISCONF": "it refuses writes because it cannot persist: look into its log and disk",
    "BUSY": "a script is running too long in it: end it with SCRIPT KILL",
    "MOVED": "it is a cluster node without the slot: for a cluster write redis+cluster://host:port",
    "CROSSSLOT": "it is a cluster node: write redis+cluster://host:port",
    "CLUSTERDOWN": "the cluster is not complete: bring the missing nodes back, or let the others go on alone"
                   " (cluster-require-full-coverage no)",
    "TRYAGAIN": "the slot is being moved to another node: try again in a moment",
    "ASK": "the slot is being moved to another node: try again in a moment",
    "NOREPLICAS": "it has too few replicas to accept writes: bring them back or lower min-replicas-to-write",
    "WRONGTYPE": "a key of another application is in the way: use another prefix or database",
    "ERR DB index": "it has no database of that number: correct the Redis URL",
    "ERR max number of clients": "it has too many connections: raise its maxclients",
}
# What stands somewhere in OpenSSL's words -> what to do about it.  The first that fits counts.
_TLS_FIXES: Final = {
    "WRONG_VERSION_NUMBER": "it speaks no TLS on that port: write redis:// or name its TLS port",
    "certificate is not valid for": "its certificate is for another name: write that name into the Redis URL",
    "Hostname mismatch": "its certificate is for another name: write that name into the Redis URL",
    "IP address mismatch": "its certificate is for another name: write that name into the Redis URL",
    "certificate has expired": "its certificate has expired: renew it",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not by a CA that is trusted here: name that CA's file in the Redis"
                                 " URL (?ssl_ca_certs=/path/ca.pem)",
    "CERTIFICATE_REQUIRED": "it asks for a client certificate: name it in the Redis URL"
                            " (?ssl_certfile=/path/client.pem&ssl_keyfile=/path/client.key)",
    "ALERT_UNKNOWN_CA": "it does not trust the CA of the client certificate in the Redis URL: take another",
    # So when that CA has the name of one that it trusts, but not its key.
    "ALERT_DECRYPT_ERROR": "it does not trust the CA of the client certificate in the Redis URL: take another",
    "EOF occurred in violation": "it ended the TLS connection: it asks for a client certificate (?ssl_certfile=/path&"
                                 "ssl_keyfile=/path), or does not trust the CA of the one in the Redis URL",
    "PEM lib": "ssl_certfile and ssl_keyfile in the Redis URL are not a certificate and its key: correct them",
    "NO_CERTIFICATE": "ssl_ca_certs in the Redis URL has no certificate in it: correct it",
    "KEY_VALUES_MISMATCH": "the ssl_keyfile in the Redis URL is not that of its ssl_certfile: correct them",
}


def of_the_connection(error: BaseException) -> bool:
    """Whether an OSError or TimeoutError is the connection's.  False when a signal handler of the application raised it
    (a time limit) while the connection was used: it is no answer of the server, and not ours to catch."""
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return False
        trace = trace.tb_next
    return True


def _code_of(handler: Any) -> object:
    """The code of a function, a method, a partial or an object that can be called; None for what is not Python's."""
    handler = getattr(handler, "func", handler)
    called = vars(type(handler)).get("__call__", handler)
    return getattr(getattr(handler, "__func__", called), "__code__", None) or getattr(handler, "__code__", None)


# The first word of what generation.lua refuses.
_KINDS: Final[dict[str, type[BrokerUnavailable]]] = {"PARTITIONS": PartitionMismatch, "FORMAT": FormatMismatch}


class Explained(exceptions.ConnectionError):
    """A failure whose text already says what to do about it."""


def unavailable(error: Exception, where: str, timeout: float) -> BrokerUnavailable:
    """The error as wsapp raises it.  `where` is host:port or a path, never with a password."""
    text = f"Redis at {where}: {_reason(error, timeout)}"
    return _KINDS.get(str(error).partition(" ")[0], BrokerUnavailable)(text)


def _reason(error: Exception, timeout: float) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Explained):
        return text
    if text.startswith("PARTITIONS "):
        there, here = text.split()[1::3]
        return (f"its rooms are divided into {there} partitions, and this process has WSAPP_PARTITIONS={here}: set it"
                f" to {there} as everywhere else, or stop everything and divide anew (wsapp partitions --set {here})")
    if text.startswith("FORMAT "):
        there, oldest, newest = text.split()[1:]
        return (f"its data have format {there}, and this release reads {oldest} to {newest}: deploy releases one after"
                " the other, each on all hosts before the next (the head of CHANGELOG.md says which work together)")
    for word, fix in _FIXES.items():
        if text.startswith((word, "-" + word)) or f" -{word} " in text:
            return f"{fix} ({text})" if word == "NOPERM" else fix
    for word, fix in _TLS_FIXES.items():
        if word in text:
            return f"{fix} ({text})"
    if "ACL failure in script" in text or "can't run this command" in text:
        return f"{_FIXES['NOPERM']} ({text})"
    if isinstance(error, exceptions.AuthenticationError):
        return f"{_FIXES['WRONGPASS']} ({text})"
    if isinstance(error, exceptions.BusyLoadingError):
        return _FIXES["LOADING"]
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return f"no answer within {timeout:g} s: see that it runs, is not overloaded and not behind a firewall"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return ("it closed the connection: see that it runs, and what its log says; if it expects TLS, write rediss://"
                f" ({text})")
    if isinstance(error, OSError | exceptions.ConnectionError):
        return f"not reachable: see that it runs and that the Redis URL names the right host and port ({text})"
    return text
