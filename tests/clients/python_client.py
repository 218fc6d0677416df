"""python-socketio as a test client."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import engineio
import requests
import socketio

from tests.clients.recorder import DEADLINE, TRANSPORTS, Recorder


class _OrderedEngine(engineio.Client):
    """The stock client starts a thread per message, so that two handlers race; here they run in wire order.
    Only the DISCONNECT packet keeps its thread, since its handler joins the reading one."""

    def _trigger_event(self, event: str, *args: Any, **options: Any) -> Any:
        if event == "message" and not str(args[0]).startswith("1"):
            options["run_async"] = False
        return super()._trigger_event(event, *args, **options)


class _Client(socketio.Client):
    def _engineio_client_class(self) -> type[engineio.Client]:
        return _OrderedEngine


class PythonClient(Recorder):
    """A socketio.Client that presents `sessionId` when it comes back, as docs/protocol.md tells clients to."""

    def __init__(self, url: str, transport: str = "websocket", auth: dict[str, Any] | None = None,
                 resume: bool = True, ca: Path | None = None, **options: Any) -> None:
        super().__init__()
        self._auth, self._resume = dict(auth or {}), resume
        if ca is not None:
            options["http_session"] = session = requests.Session()
            session.verify, session.trust_env = str(ca), False  # REQUESTS_CA_BUNDLE would win otherwise
        self._client = _Client(**{"reconnection_delay": 0.05, "reconnection_delay_max": 0.5,
                                  "randomization_factor": 0.04, "handle_sigint": False, **options})
        self._client.on("connect", lambda: self.record("connect", self._client.get_sid()))
        self._client.on("disconnect", lambda reason: self.record("disconnect", reason, None))
        self._client.on("*", self.record)
        self._client.connect(url, auth=self._present, transports=TRANSPORTS[transport], wait_timeout=DEADLINE)

    def __repr__(self) -> str:
        return f"<python client {self._client.sid}>"

    def _present(self) -> dict[str, Any]:
        told = [session["sessionId"] for session in self.sessions if "sessionId" in session]
        return {**self._auth, "sessionId": told[-1]} if told and self._resume else self._auth

    def request(self, event: str, *args: Any, timeout: float = DEADLINE) -> Any:
        data = args[0] if len(args) == 1 else tuple(args) or None
        return self._client.call(event, data, timeout=timeout)

    def transport(self) -> str:
        return str(self._client.transport())

    def _socket(self) -> socket.socket:
        found: socket.socket = self._client.eio.ws.sock
        return found

    def local_port(self) -> int:
        return int(self._socket().getsockname()[1])

    def drop(self) -> None:
        self._socket().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._client.disconnect()
        self._client.shutdown()
