"""A TCP proxy that misbehaves on demand: cuts, delays, doubles connections, goes deaf in one direction, swallows
pub/sub messages.

It runs on a thread of its own; every method may be called from any other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from tests.valkey import free_port

CHUNK: Final = 65_536
MESSAGE: Final = b"$7\r\nmessage\r\n"  # how a RESP2 pub/sub push begins
REMEMBERED: Final = 65_536  # bytes of what a client said, for a second connection that says it too
WITHIN: Final = 10.0  # seconds a command to the proxy's thread may take

T = TypeVar("T")


@dataclass
class Weather:
    """What happens to the bytes.  `up` is from client to server.  `delay` in seconds per chunk."""

    delay: float = 0.0
    deaf_up: bool = False    # swallow what goes to the server
    deaf_down: bool = False  # swallow what comes from it
    deaf_live: bool = False  # swallow pub/sub messages only: everything else is answered, PING too
    refusing: bool = False   # close new connections at once


class Link:
    """One connection through the proxy.  `condemned`: its pub/sub messages are swallowed until it ends.  `said`: what
    went to the server so far, None when that was too much; a `ghost` is a second connection that says it too."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near, self.far = near, far
        self.condemned = False
        self.said: bytearray | None = bytearray()
        self.ghost: asyncio.StreamWriter | None = None

    def says(self, data: bytes) -> None:
        """Remember what goes to the server, and have the ghost say it."""
        if self.ghost is not None and not self.ghost.is_closing():
            self.ghost.write(data)
        if self.said is not None:
            self.said = self.said + data if len(self.said) + len(data) <= REMEMBERED else None

    def cut(self) -> None:
        """Reset all ends: no FIN, no goodbye."""
        for writer in (self.near, self.far, self.ghost):
            if writer is not None:
                writer.transport.abort()


class Proxy:
    """Listens on `port` and passes on to `target` (a port, or what names one at the time of a connection)."""

    def __init__(self, target: int | Callable[[], int], port: int | None = None) -> None:
        self._target, self.port = target, port or free_port()
        self.weather = Weather()
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._accept, "127.0.0.1", self.port))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WITHIN)
        self._loop.close()

    @property
    def url(self) -> str:
        """Of a Redis behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def calm(self) -> None:
        """Behave."""
        self.weather = Weather()

    def cut(self, keep: int = 0) -> int:
        """Reset all connections but the `keep` oldest; how many were cut."""
        return self._do(self._cut(keep))

    def double(self, keep: int = 0) -> int:
        """Open each connection but the `keep` oldest a second time: all that its client said and says goes to the
        server on both, what comes back on the second one is swallowed.  How many there are."""
        return self._do(self._double(keep))

    def undouble(self) -> None:
        """Reset the second connections."""
        self._do(self._undouble())

    def condemn(self) -> int:
        """Swallow the pub/sub messages of the connections of now; later ones are not touched.  How many there are."""
        return self._do(self._condemn())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WITHIN)

    async def _cut(self, keep: int) -> int:
        links = list(self._links)[keep:]
        for link in links:
            link.cut()
        return len(links)

    async def _double(self, keep: int) -> int:
        chosen = [link for link in list(self._links)[keep:] if link.said and link.ghost is None]
        for link in chosen:
            reader, link.ghost = await asyncio.open_connection("127.0.0.1", self._where())
            link.ghost.write(bytes(link.said or b""))
            task = asyncio.create_task(_swallow(reader, link.ghost))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(chosen)

    async def _undouble(self) -> None:
        for link in self._links:
            if link.ghost is not None:
                link.ghost.transport.abort()
                link.ghost = None

    async def _condemn(self) -> int:
        for link in self._links:
            link.condemned = True
        return len(self._links)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for link in list(self._links):
            link.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.weather.refusing:
                writer.transport.abort()
                return
            await self._pass_on(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    def _where(self) -> int:
        return self._target() if callable(self._target) else self._target

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._where())
        link = Link(writer, far_writer)
        self._links.add(link)
        try:
            await asyncio.gather(self._pump(link, reader, far_writer, up=True),
                                 self._pump(link, far_reader, writer, up=False))
        finally:
            self._links.discard(link)
            link.cut()

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        while data := await reader.read(CHUNK):
            if self.weather.delay:
                await asyncio.sleep(self.weather.delay)
            if not self._swallows(link, data, up):
                if up:
                    link.says(data)
                writer.write(data)
                await writer.drain()
        link.cut()  # a half-closed connection is of no use to anybody here

    def _swallows(self, link: Link, data: bytes, up: bool) -> bool:
        weather = self.weather
        if up:
            return weather.deaf_up
        return weather.deaf_down or ((weather.deaf_live or link.condemned) and MESSAGE in data)


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read until it ends: what is not read stops the other side."""
    try:
        while await reader.read(CHUNK):
            continue
    except OSError:
        return
    finally:
        writer.transport.abort()
