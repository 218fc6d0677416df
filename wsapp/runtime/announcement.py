"""What a server says of itself when it is up: where its page is, and that it is open to everybody if it is."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from typing import Any

from wsapp.settings import Settings, auth_mode

log = logging.getLogger(__name__)


def announce(settings: Settings, identified: bool, page: str, addresses: Iterable[Any], scheme: str) -> None:
    """Log the page's URL for each address, and a warning in capitals where strangers get in and nobody has decided so.

    `identified`: the application names its users itself.  `addresses` are those of the listening sockets, as
    `getsockname` gives them.
    """
    if settings.redis_url is None:
        log.info("wsapp: REDIS_URL is unset: only this process can publish, and nothing is kept when it ends")
    for address in addresses:
        if not isinstance(address, tuple):
            continue  # a Unix socket is for a proxy on this machine
        host, port = address[0], address[1]
        local = ipaddress.ip_address(host).is_loopback
        shown = "localhost" if local or ipaddress.ip_address(host).is_unspecified else host
        shown = f"[{shown}]" if ":" in shown else shown
        log.info("wsapp: the page is at %s://%s:%s%s (Ctrl-C ends the server)", scheme, shown, port, page)
        if not local and not identified and settings.auth is None and auth_mode(settings) == "anonymous":
            log.warning("wsapp: ANYBODY WHO REACHES %s:%s MAY WATCH EVERYTHING: NO TOKEN IS ASKED FOR. Set keys "
                        "(WSAPP_JWT_SECRET) or WSAPP_BIND=127.0.0.1; WSAPP_AUTH=anonymous says that it is meant",
                        host, port)
