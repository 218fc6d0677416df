"""`wsapp config`, `wsapp url` and `wsapp serve`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

import wsapp
from wsapp.emitter import broker_url
from wsapp.errors import SettingsError
from wsapp.launch import MOST_WORKERS, worker_count
from wsapp.settings import describe, load_settings


@click.command("config")
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of a table.")
def config_command(as_json: bool) -> None:
    """Print every setting: value, unit, where it came from, what it is for.

    Passwords are masked.  Stops with one line when a value is wrong or a WSAPP_* name is unknown, as the server does.

    \b
    wsapp config
    MAX_EVENTS_PER_SEC=0.5 wsapp config | grep environment
    """
    rows = describe(load_settings(os.environ))
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
        return
    name_width, value_width = max(len(row.name) for row in rows), max(len(row.value) for row in rows)
    for row in rows:
        click.echo(f"{row.name:{name_width}}  {row.value:{value_width}}  {row.unit:11}  {row.source:11}  {row.help}")


@click.command("url")
def url_command() -> None:
    """Print the URL of the Redis in use, password included.

    For processes that publish with stock Flask-SocketIO, or for a look with redis-cli:

    \b
    SocketIO(message_queue=<this url>).emit("note", {"a": 1}, to="agent:coder")
    redis-cli -u "$(wsapp url)" ping
    """
    click.echo(broker_url(load_settings(os.environ)))


def _gunicorn_config() -> Path:
    """The project's own `gunicorn.conf.py` first, then the one that wsapp came with."""
    package = Path(wsapp.__file__).resolve().parent
    for folder in (Path.cwd(), package, package.parent):
        if (folder / "gunicorn.conf.py").is_file():
            return folder / "gunicorn.conf.py"
    raise SettingsError("no gunicorn.conf.py here: take the one of wsapp's repository, it sets the worker class")


@click.command("serve", context_settings={"ignore_unknown_options": True})
@click.argument("app", default="app:app", metavar="[MODULE:APP]")
@click.option("--workers", "-w", type=click.IntRange(1, MOST_WORKERS), help="Worker processes (WEB_CONCURRENCY).")
@click.option("--port", "-p", type=click.IntRange(0, 65535), help="Port (WEBSOCKET_PORT, 3001).")
@click.argument("gunicorn", nargs=-1, type=click.UNPROCESSED, metavar="[-- GUNICORN OPTIONS]")
def serve_command(app: str, workers: int | None, port: int | None, gunicorn: tuple[str, ...]) -> None:
    """Start gunicorn with wsapp's worker for MODULE:APP (app:app), any module whose Flask app has a SocketServer.

    The process becomes gunicorn.  Without REDIS_URL a private Valkey is started and stopped with it.

    \b
    wsapp serve
    wsapp serve myproject.web:app --workers 4 --port 8000
    REDIS_URL=redis://cache:6379/0 wsapp serve
    """
    if workers is not None:
        os.environ["WEB_CONCURRENCY"] = str(workers)
    if port is not None:
        os.environ["WEBSOCKET_PORT"] = str(port)
    load_settings(os.environ)  # a wrong setting is told here, once, not by every worker
    worker_count()
    command = [sys.executable, "-m", "gunicorn", "-c", str(_gunicorn_config()), *gunicorn, app]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606
