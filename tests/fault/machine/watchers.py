"""Watchers of the machine: many npm clients in one node process, some python clients; what they see goes into views."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from socketio.exceptions import SocketIOError

from tests.clients.python_client import PythonClient
from tests.clients.recorder import Seen
from tests.fault.machine.oracle import View

DRIVER = Path(__file__).with_name("watchers.js")


def take_session(view: View, recovered: bool, rooms: dict[str, Any]) -> None:
    """Note a `session` event."""
    view.note("s", recovered=recovered, rooms={room: (at["epoch"], at["seq"]) for room, at in rooms.items()})


class NodeWatchers:
    """The npm clients."""

    def __init__(self) -> None:
        node = shutil.which("node")
        if node is None:
            raise RuntimeError("node is not installed")
        self._process = subprocess.Popen([node, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True, encoding="utf-8")
        self._writing = threading.Lock()
        self.views: dict[int, View] = {}
        self.codes: Counter[int] = Counter()
        self.told: Counter[str] = Counter()
        self.slots: dict[str, tuple[float, float]] = {}  # by name: when it was told to leave, and for how long (s)
        self.returns: dict[str, float] = {}  # by name: when it was last back
        self._known: dict[str, str] = {}  # one string object per id, however many clients saw it
        self._reader = threading.Thread(target=self._read, name="watchers", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._reader.join(10)

    def open(self, view: View, url: str, auth: dict[str, Any], rate: float = 0) -> int:
        """Start one client, which subscribes to the view's rooms; its number."""
        number = len(self.views)
        self.views[number] = view
        self.tell("open", number, url=url, auth=auth, rooms=view.rooms, rate=rate)
        return number

    def twin(self, of: int, url: str) -> int:
        """Start a second client with the session of another; its number.  Its view belongs to that one's `family`."""
        number, original = len(self.views), self.views[of]
        self.views[number] = view = View(f"twin {number} of {original.name}", original.rooms, original.throttled)
        original.twins.append(view)
        self.tell("twin", number, of=of, url=url)
        return number

    def tell(self, command: str, number: int, **fields: Any) -> None:
        """Give one command: `cut`, `pause`, `resume`, `leave`, `connect`, `rate`, `close`."""
        assert self._process.stdin is not None
        with self._writing:
            self._process.stdin.write(json.dumps({"cmd": command, "n": number, **fields}) + "\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            for kind, number, *rest in json.loads(line):
                self._take(kind, self.views[number], rest)

    def _take(self, kind: str, view: View, rest: list[Any]) -> None:
        if kind == "e":
            seq, id, token = rest
            view.event(seq, self._known.setdefault(id, id), token)
            return
        self.told[kind] += 1
        if kind == "s":
            recovered, rooms, reason = rest
            self.told[f"recovered {recovered} {reason}".strip()] += 1
            self.returns[view.name] = time.monotonic()
            take_session(view, recovered, rooms)
        elif kind == "m":
            view.note("m", rest[0])
        elif kind == "h":
            self.slots[view.name] = time.monotonic(), rest[0] / 1000
        elif kind in ("j", "r"):
            view.note(kind, *rest)
        elif kind == "x":
            view.note("x", rest[0], first=rest[1], last=rest[2], count=rest[3])
        elif kind == "d":
            self.codes[rest[0]] += 1
            view.note("d", seq=rest[0])


class PythonWatcher(PythonClient):
    """One python-socketio client of the machine.  It joins its rooms again on a thread of its own when it has to."""

    def __init__(self, view: View, url: str) -> None:
        self.view = view
        self._joining = threading.Lock()
        super().__init__(url)

    def record(self, event: str, *args: Any) -> None:
        """Into the view instead of memory."""
        with self._news:
            if event in ("connect", "disconnect"):
                self.connected = event == "connect"
            if event == "session":
                self.seen = [Seen(event, args, 0.0)]  # PythonClient presents the last one
                take_session(self.view, args[0]["recovered"], args[0].get("rooms", {}))
                missing = [room for room in self.view.rooms if room not in args[0].get("rooms", {})]
                threading.Thread(target=self._join, args=(missing, args[0]["sessionId"]), daemon=True).start()
            elif event == "shed":
                self.view.note("x", args[0]["room"], first=args[0]["from"], last=args[0]["to"], count=args[0]["count"])
            elif event == "resync":
                self.view.note("r", args[0]["room"], args[0]["epoch"], args[0]["seq"])
            elif event == "disconnect":
                self.view.note("d")
            elif event == "mode":
                self.view.note("m", args[0]["mode"])
            else:
                self._saw(args[0] if args else None)
            self._news.notify_all()

    def _saw(self, data: Any) -> None:
        for one in data if isinstance(data, list) else [data]:
            if isinstance(one, dict) and "k" in one:
                self.view.event(one.get("seq", 0), one["id"], one["k"])
                if "c" in one:
                    threading.Thread(target=self._acknowledge, args=(one["id"],), daemon=True).start()

    def _acknowledge(self, id: str) -> None:
        with suppress(SocketIOError):  # disconnected meanwhile: it comes again
            self._client.emit("ack-event", id)

    def _join(self, rooms: list[str], session_id: str) -> None:
        with self._joining:
            for room in rooms:
                kind, _, id = room.partition(":")
                while self.sessions[-1]["sessionId"] == session_id:
                    try:
                        told = self.request(f"subscribe-{kind}", id, timeout=5)
                    except Exception as error:  # noqa: BLE001 - disconnected meanwhile, or no answer in time
                        told = {"ok": False, "why": error}
                    if told["ok"]:
                        self.view.note("j", room, told["epoch"], told["seq"])
                        break
                    self._pause.wait(0.2)

    _pause = threading.Event()
