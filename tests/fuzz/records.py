"""Records off the wire: a publication that writes itself back the same way, or ValueError."""

from __future__ import annotations

from wsapp.core.events import Profile, parse_record, strict_loads

SEEDS = [
    b'id\t1790000000000\t5\tis\tl\ta\tagent-thought\tagent:a\t7\te\n{"agentId":"a"}',
    b"id\t1\t9\tc~w\tc\t\tdeployed\tproject:p\t1\te\ttask:t\t2\tf\n7", b"id\t1\t5\t-\tx\t\te\tr\t1\te\n{}",
    b"id\t1\t5\t-\tl\t\te\tr\tone\te\n{}", b"id\t1\t5\tis\tl\t\te\tr\t1\te\n{}", b"\xff\n", b"",
]


def check(data: bytes) -> None:
    try:
        publication = parse_record(data)
    except ValueError:
        return
    again = parse_record(publication.record())
    assert again.record() == publication.record()
    assert again.places == publication.places
    try:
        strict_loads(publication.body)
    except (ValueError, RecursionError):
        return
    if not publication.flags.strip("isc"):
        for profile in Profile:
            publication.text(profile, publication.places[0].room)
