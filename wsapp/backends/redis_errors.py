"""Turns what can go wrong with Redis into one `BrokerUnavailable` whose message names the fix."""

from __future__ import annotations

from typing import Final

from redis import exceptions

from wsapp.errors import BrokerUnavailable

# The first word of an error reply (RESP, "Simple errors") -> what to do about it.
_FIXES: Final = {
    "NOAUTH": "it asks for a password: put it into the Redis URL (redis://user:password@host:port/0)",
    "WRONGPASS": "it refused the user or the password of the Redis URL: correct them",
    "NOPERM": "the user of the Redis URL may not do this: grant it +@all, or at least scripts, streams and pub/sub",
    "LOADING": "it is still loading its data: wait until it is ready",
    "READONLY": "it is a read-only replica: point the Redis URL at the primary",
    "MASTERDOWN": "it is a replica without its primary: point the Redis URL at the primary",
    "OOM": "it is out of memory: raise maxmemory or lower the history limits",
    "MISCONF": "it refuses writes because it cannot persist: look into its log and disk",
    "BUSY": "a script is running too long in it: end it with SCRIPT KILL",
    "MOVED": "it is a cluster node: use a single primary, or a proxy in front of the cluster",
    "CROSSSLOT": "it is a cluster node: use a single primary, or a proxy in front of the cluster",
    "NOREPLICAS": "it has too few replicas to accept writes: bring them back or lower min-replicas-to-write",
    "WRONGTYPE": "a key of another application is in the way: use another prefix or database",
}


def unavailable(error: Exception, where: str, timeout: float) -> BrokerUnavailable:
    """The error as wsapp raises it.  `where` is host:port or a path, never with a password."""
    return BrokerUnavailable(f"Redis at {where}: {_reason(error, timeout)}")


def _reason(error: Exception, timeout: float) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    for word, fix in _FIXES.items():
        if text.startswith((word, "-" + word)) or f" -{word} " in text:
            return fix
    if isinstance(error, exceptions.AuthenticationError):
        return f"{_FIXES['WRONGPASS']} ({text})"
    if isinstance(error, exceptions.BusyLoadingError):
        return _FIXES["LOADING"]
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return f"no answer within {timeout:g} s: see that it runs, is not overloaded and not behind a firewall"
    if isinstance(error, OSError | exceptions.ConnectionError):
        return f"not reachable: see that it runs and that the Redis URL names the right host and port ({text})"
    return text
