"""A proxy that passes everything on but the requested name, as one does whose Host header was forgotten."""

from __future__ import annotations

import socket
import threading
from typing import Self


class RenamingProxy:
    """On the loopback; the server behind it sees its own address as Host, and the proxy's in Origin."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._names = f"Host: 127.0.0.1:{self.port}".encode(), f"Host: 127.0.0.1:{upstream}".encode()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(("127.0.0.1", self._upstream))
            for source, target, rename in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass, args=(source, target, rename), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, rename: bool) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data.replace(*self._names) if rename else data)
        except OSError:  # one side has gone
            pass
        finally:
            for end in (source, target):
                end.close()
