"""A program that serves an application without gunicorn, in a folder of its own, as a Flask developer starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final, Self

from tests.harness import OURS, ROOT, Reply, http, wait_until
from tests.valkey import free_port

APP: Final = '''
import ssl  # what a real application has imported long before it serves
import threading
import urllib.request

from flask import Flask
from wsapp import SocketServer

import words

app = Flask(__name__)
server = SocketServer(app)
app.add_url_rule("/word", "word", lambda: words.WORD)
app.add_url_rule("/broken", "broken", lambda: 1 / 0)
app.add_url_rule("/patched", "patched", lambda: str(threading.Thread.__module__ == "gevent.threading"
                                                    or threading.get_native_id.__module__ != "_thread"))
server.socketio.on("echo")(lambda told: told)
server.socketio.on("stop")(lambda: server.socketio.stop())
'''


class Program:
    """`main` is put under the application: what stands behind `if __name__ == "__main__":`."""

    def __init__(self, folder: Path, main: str = "", arguments: tuple[str, ...] = ("web.py",),
                 env: dict[str, str] | None = None) -> None:
        self.folder, self.port = folder, free_port()
        main = main.replace("PORT", str(self.port))
        (folder / "web.py").write_text(APP + (f"\nif __name__ == '__main__':\n    {main}\n" if main else ""))
        (folder / "words.py").write_text("WORD = 'one'\n")
        self.log = folder / "log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith((*OURS, "FLASK_"))}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(part.replace("PORT", str(self.port)) for part in arguments)], cwd=folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**clean, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
                     **(env or {})})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    ca = None

    def __enter__(self) -> Self:
        wait_until(lambda: self.said("is up: ") or self.process.poll() is not None, "a start", 60)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        print(self.log.read_text())  # pytest shows it with a failure

    def get(self, path: str) -> Reply:
        return http(self.url + path)

    def said(self, text: str) -> bool:
        return text in self.log.read_text()

    def word(self) -> str:
        """What the application's view says; nothing while it restarts."""
        try:
            return self.get("/word").text
        except OSError:
            return ""
