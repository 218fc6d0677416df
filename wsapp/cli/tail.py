"""`wsapp tail`: follow rooms in a terminal, straight from the broker."""

from __future__ import annotations

import heapq
import json
import logging
import os
import queue
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import click

from wsapp.cli.command_output import printable
from wsapp.core.events import TASK_UPDATE, THOUGHT, Publication, parse_record, strict_loads
from wsapp.core.ports import Backend, HistoryPage, HistoryQuery
from wsapp.emitter import open_from
from wsapp.errors import BrokerUnavailable
from wsapp.schemas import parse_room
from wsapp.settings import load_settings

PAGE: Final = 500
SEEN: Final = 20_000  # ids kept to print an event of several rooms once
MAX_PENDING: Final = 50_000  # live records that wait for the terminal; past it history is read again
RETRY: Final = 1.0

Item = tuple[str, bytes] | None  # a room and a record; None for a gap
# C1 steers terminals like ESC does, and JSON may have it as it is.
_ESCAPED: Final = {code: f"\\u{code:04x}" for code in (*range(127, 160), 0x2028, 0x2029)}
_CONTINUED: Final = "\n" + " " * 13 + "| "  # under the room: what an event says cannot begin like another event


class Follower:
    """The rooms' events in order, each once: live ones are held while history is read up to them (G3)."""

    def __init__(self, backend: Backend, rooms: Sequence[str], show: Callable[[Publication], None],
                 warn: Callable[[str], None]) -> None:
        self._backend, self._rooms, self._show, self._warn = backend, tuple(rooms), show, warn
        self._live: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._next: dict[str, int] = {}
        self._epochs: dict[str, str] = {}
        self._seen: set[str] = set()
        self._order: deque[str] = deque()
        self._overrun = False

    def start(self, since: int | None, last: int) -> None:
        """Subscribe, then print history: after `since` of each room, or the `last` ones.  Raises
        BrokerUnavailable."""
        self._backend.start(f"tail-{secrets.token_hex(6)}", self._on_record, self._on_gap,
                            lambda message: None, lambda message: None)
        self._backend.broker.subscribe(self._rooms)
        if since is None:
            queries = [HistoryQuery(room, limit=max(last, 1), backwards=True) for room in self._rooms]
            pages = self._backend.broker.read(queries)
            self._meet(pages)
            found = {item.id: item for page in pages for item in page.publications[:last]}
            for publication in sorted(found.values(), key=lambda item: item.id)[-last or len(found):]:
                self._print(publication)
        else:
            # Ids grow over all rooms, so that several histories become one.
            for publication in heapq.merge(*(self._history(room, since) for room in self._rooms),
                                           key=lambda item: item.id):
                self._print(publication)

    def follow(self) -> None:
        """Print what comes, until interrupted."""
        while True:
            item = self._live.get()
            if item is None:
                self._overrun = False
                for room in self._rooms:
                    self._read_on(room, self._next.get(room, 1) - 1)
            else:
                self._take(item[0], parse_record(item[1]))

    def _on_record(self, room: str, record: bytes) -> None:
        if self._live.qsize() < MAX_PENDING:
            self._live.put((room, record))
        elif not self._overrun:
            self._overrun = True
            self._live.put(None)

    def _on_gap(self) -> None:
        self._live.put(None)

    def _read_on(self, room: str, since: int) -> None:
        """Catch up however long the broker is away."""
        while True:
            try:
                return self._catch_up(room, since)
            except BrokerUnavailable as error:
                self._warn(f"{error}; trying again")
                time.sleep(RETRY)

    def _take(self, room: str, publication: Publication) -> None:
        place = next(place for place in publication.places if place.room == room)
        if place.epoch != self._epochs.get(room, place.epoch):
            self._read_on(room, 0)
        elif place.seq > self._next.get(room, place.seq):
            self._read_on(room, self._next[room] - 1)
        if place.seq >= self._next.get(room, 0):
            self._advance(room, place.epoch, place.seq + 1)
            self._print(publication)

    def _meet(self, pages: Sequence[HistoryPage]) -> None:
        for page in pages:
            self._advance(page.room, page.head.epoch, page.head.seq + 1)

    def _advance(self, room: str, epoch: str, following: int) -> None:
        if self._epochs.get(room, epoch) != epoch:
            self._warn(f"{room}: the broker began anew, events in between may be missing")
        self._next[room] = following
        if following == 1:
            self._epochs.pop(room, None)  # an empty room gets its epoch with its first event
        else:
            self._epochs[room] = epoch

    def _catch_up(self, room: str, since: int) -> None:
        for publication in self._history(room, since):
            self._print(publication)

    def _history(self, room: str, since: int) -> Iterator[Publication]:
        """All that is kept after `since`; the room is met at its head afterwards."""
        while True:
            page = self._backend.broker.read([HistoryQuery(room, since=since, limit=PAGE)])[0]
            if self._epochs.get(room, page.head.epoch) != page.head.epoch and since:
                since = 0
                self._advance(room, page.head.epoch, 1)
                continue
            if page.first > since + 1 and page.head.seq > since:
                self._warn(f"{room}: {page.first - since - 1} events are no longer kept")
            yield from page.publications
            if len(page.publications) < PAGE:
                self._advance(room, page.head.epoch, page.head.seq + 1)
                return
            since = page.publications[-1].seq(room)

    def _print(self, publication: Publication) -> None:
        if publication.id in self._seen:
            return
        self._seen.add(publication.id)
        self._order.append(publication.id)
        if len(self._order) > SEEN:
            self._seen.discard(self._order.popleft())
        self._show(publication)


def as_json(publication: Publication) -> str:
    """One line of JSON: `{id, event, ts, rooms: {room: seq}, data}`."""
    head = json.dumps({"id": publication.id, "event": publication.event, "ts": publication.ts,
                       "rooms": {place.room: place.seq for place in publication.places}},
                      ensure_ascii=False, separators=(",", ":"))
    return f'{head[:-1]},"data":{publication.body.decode()}}}'.translate(_ESCAPED)


def as_text(publication: Publication) -> str:
    """For people: time, room and seq, what was said, further lines of it indented.  What would steer the terminal is
    replaced."""
    data = strict_loads(publication.body)
    clock = time.strftime("%H:%M:%S", time.localtime(publication.ts / 1000)) + f".{publication.ts % 1000:03d}"
    place = publication.places[0]
    if publication.event == THOUGHT:
        said = str(data["thought"])
    elif publication.event == TASK_UPDATE:
        percent = f" {data['progress']:g}%" if data.get("progress") is not None else ""
        said = f"{data['status']}{percent} {data.get('message') or ''}".rstrip()
    else:
        said = f"{publication.event} {json.dumps(data, ensure_ascii=False)}"
    said = printable(said)
    return f"{clock} {place.room} #{place.seq} {said}".replace("\n", _CONTINUED)


def _warn(message: str) -> None:
    click.echo(f"wsapp tail: {message}", err=True)


@click.command("tail")
@click.argument("rooms", nargs=-1, required=True, metavar="ROOM...")
@click.option("--since", type=click.IntRange(0), help="Begin after this seq of each room.")
@click.option("--last", type=click.IntRange(0, 1000), default=10, show_default=True,
              help="Without --since: begin with this many.")
@click.option("--json", "json_lines", is_flag=True, help="One JSON object a line.")
@click.option("--count", type=click.IntRange(1), help="End after this many events.")
def tail_command(rooms: tuple[str, ...], since: int | None, last: int, json_lines: bool, count: int | None) -> int:
    """Follow rooms (agent:ID, task:ID, project:ID) in the terminal; Ctrl-C ends it.

    Reads the broker itself: nothing is throttled or shed here.  An event of several rooms is printed once.

    \b
    wsapp tail agent:coder
    wsapp tail agent:coder task:t1 --since 0
    wsapp tail project:p1 --json --count 10 | jq .data
    """
    for room in rooms:
        parse_room(room)
    settings = load_settings(os.environ)
    encode = as_json if json_lines else as_text
    printed = 0

    def show(publication: Publication) -> None:
        nonlocal printed
        sys.stdout.write(encode(publication) + "\n")
        sys.stdout.flush()
        printed += 1
        if printed == count:
            raise _Enough

    backend = open_from(settings)
    try:
        backend.ping()  # away at the start is an error, away later is waited for
        logging.basicConfig(format="wsapp tail: %(message)s", level=logging.WARNING)
        follower = Follower(backend, list(dict.fromkeys(rooms)), show, _warn)
        follower.start(since, last)
        follower.follow()
    except _Enough:
        return 0
    finally:
        backend.close()
    return 0


class _Enough(Exception):
    """`--count` is reached."""
