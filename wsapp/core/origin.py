"""Origins and names of hosts, each in the one spelling in which they are compared.

A browser sends an origin in lower case, without the default port of its scheme, and a name with other than ASCII
letters in punycode (RFC 6454 section 6.1, URL standard).  What somebody writes into a setting is brought into that
form, or refused: an entry that matches nothing would be found out by users only.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_PORTS: Final = {"http": 80, "https": 443}
_NAME: Final = re.compile(r"[a-z0-9_-](?:[a-z0-9._-]{0,252}[a-z0-9_-])?|\[[0-9a-f:.]{2,45}\]", re.ASCII)
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]{0,30})://([^/?#@:\[\]]+|\[[^\[\]]*\])(?::([0-9]{1,5}))?")
_AUTHORITY: Final = re.compile(r"([^/?#@:\[\]]*|\[[^\[\]]*\])(?::([0-9]{0,5}))?")
_OPAQUE: Final = frozenset({"file", "data", "blob", "about", "javascript", "filesystem"})
# The four that the older IDNA, which Python has, writes in another way than browsers (RFC 5894 section 1.5.4).
_DEVIATING: Final = re.compile("[\u00df\u03c2\u200c\u200d]")


class Origin(NamedTuple):
    """Of a page.  `port` is None for the scheme's default.  `host` may begin with `*.` in a list: any name below."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}" + ("" if self.port is None else f":{self.port}")

    def covers(self, other: Origin) -> bool:
        """Whether an entry of a list means this origin."""
        if self.host.startswith("*."):
            return (self.scheme, self.port) == (other.scheme, other.port) and other.host.endswith(self.host[1:])
        return self == other


class Host(NamedTuple):
    """A name with or without a port, as a request's Host has it."""

    name: str
    port: int | None

    def covers(self, other: Host) -> bool:
        """Whether an entry of a list means this one: an entry without a port means every port, and a Host without one
        is at the default port of either scheme."""
        if self.port is not None and self.port != other.port and not (
                other.port is None and self.port in _PORTS.values()):
            return False
        return other.name.endswith(self.name[1:]) if self.name.startswith("*.") else self.name == other.name

    def is_of(self, origin: Origin) -> bool:
        """Whether a page of this origin was served under this name."""
        default = _PORTS.get(origin.scheme)
        return default is not None and (self.name, self.port or default) == (origin.host, origin.port or default)


def ascii_name(name: str) -> str:
    """A host's name as browsers send it; `*.` in front of it stays.  Raises ValueError."""
    star, bare = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    bare = bare.lower()
    if not bare.isascii():
        if _DEVIATING.search(bare):
            raise ValueError("is to be written in punycode (xn--...): browsers may read it otherwise than this server")
        try:
            bare = bare.encode("idna").decode()
        except UnicodeError as error:
            raise ValueError(f"is not a name: {error}") from None
    if not _NAME.fullmatch(bare):
        raise ValueError("is not a name")
    return star + bare


def parse_origin(text: str) -> Origin:
    """An origin as it is compared.  Raises ValueError for anything that a browser does not send as one."""
    scheme, separator, rest = text.rstrip("/").partition("://")
    found = _ORIGIN.fullmatch(scheme.lower() + separator + rest)
    if found is None:
        raise ValueError("is not scheme://host or scheme://host:port")
    if scheme.lower() in _OPAQUE:
        raise ValueError("has no origin of its own: browsers send `null` for it, as anybody's page can")
    port = int(found[3]) if found[3] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError("has no port from 1 to 65535")
    return Origin(found[1], ascii_name(found[2]), None if port == _PORTS.get(found[1]) else port)


def parse_host(text: str) -> Host:
    """A Host as it is compared; the empty one of a request without it.  Raises ValueError."""
    found = _AUTHORITY.fullmatch(text)
    if found is None or (found[1].startswith("*.") and "*" in found[1][2:]):
        raise ValueError("is not a name, or name:port")
    port = int(found[2]) if found[2] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError("has no port from 1 to 65535")
    return Host(ascii_name(found[1]) if found[1] else "", port)
