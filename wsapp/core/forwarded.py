"""What proxies tell of the client in X-Forwarded-For, -Proto and -Host.

Each proxy appends to the list, or writes it anew, so of N trusted ones the N-th entry from the right counts, and what
stands left of it is the client's own invention.
"""

from __future__ import annotations


def told_by(header: str, proxies: int) -> str | None:
    """What the outermost of `proxies` trusted proxies wrote into a header; None when none is trusted or none wrote.
    Of fewer entries than proxies the first counts."""
    entries = [entry.strip() for entry in header.split(",") if entry.strip()] if proxies else []
    return entries[-min(proxies, len(entries))] if entries else None
