"""`wsapp drain`: take the workers of a running server out of service, and back."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterable
from typing import Any, Final

import click

from wsapp.core.ports import Backend
from wsapp.core.questions import ANSWER, Questions
from wsapp.emitter import open_from
from wsapp.errors import BrokerUnavailable, ErrorCode, RequestError
from wsapp.settings import load_settings

LOOK: Final = 0.25  # seconds between two looks at how far it is
LINE_EVERY: Final = 2.0  # seconds between two lines where the output is no terminal
TIMEOUT: Final = 2.0  # seconds for each call to Redis, and for the workers' answers
Reports = dict[str, dict[str, Any]]


class Operator:
    """Asks workers from outside.  Raises BrokerUnavailable."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._name = backend, f"drain-{secrets.token_hex(6)}"
        self._questions = Questions(backend.cluster)
        backend.start(self._name, lambda _room, _record: None, lambda: None, lambda _message: None, self._on_control)
        # The server confirms in order: with this room also the control channel, on which answers come.
        backend.broker.subscribe([self._name])

    def _on_control(self, message: bytes) -> None:
        kind, _, argument = message.decode(errors="replace").partition(" ")
        if kind == ANSWER:
            self._questions.take(argument)

    def workers(self) -> list[str]:
        """Every worker with a lease."""
        return sorted(self._backend.cluster.workers())

    def tell(self, boots: Iterable[str], do: str, over: float | None = None) -> tuple[Reports, list[str]]:
        """What each of them says after it did `begin`, `undo` or nothing (`tell`), and who did not answer."""
        found = self._questions.ask(self._name, boots, "drain", {"do": do, "over": over}, TIMEOUT)
        return found.by_boot, found.missing


@click.command("drain")
@click.option("--worker", "-w", "workers", multiple=True, metavar="BOOT",
              help="Only this worker, by its name or how that begins; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="All workers that use this Redis, on any machine.")
@click.option("--over", type=click.FloatRange(0, 3600), metavar="SECONDS",
              help="Spread the goodbyes over so long.  Default: 5 ms a client, at most 5 s.")
@click.option("--wait", type=click.FloatRange(0, 7200), metavar="SECONDS",
              help="Give up after so long.  Default: 30 s more than --over.")
@click.option("--undo", is_flag=True, help="Take clients again.")
@click.option("--status", is_flag=True, help="Change nothing; print how each worker stands.")
@click.option("--json", "as_json", is_flag=True, help="At the end one JSON object a worker, and no progress.")
def drain_command(workers: tuple[str, ...], everything: bool, over: float | None, wait: float | None, undo: bool,
                  status: bool, as_json: bool) -> None:
    """Take a running server out of service: all workers of the server on this machine and WEBSOCKET_PORT (3001).

    /readyz says 503 at once and nobody new is taken.  Every client is told when to come back, gets what still waits
    for it, its session is saved, and it is closed with 1012 at its moment, so that they come back evenly, to other
    workers.  Returns when the last one has left: the server may then be stopped.  A drained worker stays drained until
    `--undo`, or until it ends: one that is started in its place takes clients.

    Exit status 1 when a worker did not answer or clients were left in the end.

    \b
    wsapp drain && systemctl stop wsapp       before a machine goes
    wsapp drain --worker 3f9a                 one worker, while the others go on
    wsapp drain --over 60                     50 000 clients, slowly
    wsapp drain --undo
    """
    if undo and status:
        raise click.UsageError("--undo and --status exclude each other")
    settings = load_settings(os.environ)
    logging.getLogger("wsapp").addHandler(logging.NullHandler())  # what fails is told in one line, below
    backend = open_from(settings, timeout=TIMEOUT)
    try:
        operator = Operator(backend)
        server = f"{socket.gethostname()}:{settings.websocket_port}"
        standing = _choose(*operator.tell(operator.workers(), "tell"), workers, everything, server)
        if status or undo:
            _say(_tell_all(operator, standing, "undo") if undo else standing, as_json)
        else:
            wait = 30 + (over or 0) if wait is None else wait
            _say(_drain(operator, standing, over, wait, as_json), as_json)
    finally:
        backend.close()


def _choose(standing: Reports, missing: list[str], workers: tuple[str, ...], everything: bool, server: str) -> Reports:
    """Those that are meant.  Raises RequestError with what there is instead."""
    known = ", ".join(f"{boot} of {told['server']}" for boot, told in sorted(standing.items())) or "none"
    if workers:
        chosen = _named(standing, missing, workers, known)
    else:
        chosen = {boot: told for boot, told in standing.items() if everything or told["server"] == server}
    if missing and (everything or not chosen):
        raise RequestError(ErrorCode.NOT_FOUND, f"no answer from {', '.join(missing)}: hung, or just gone (a lease "
                                                f"outlives a killed worker by seconds); workers that answer: {known}")
    if not chosen:
        where = "uses this Redis" if everything else f"of {server} uses this Redis"
        raise RequestError(ErrorCode.NOT_FOUND, f"no worker {where}: set REDIS_URL and WEBSOCKET_PORT as the server's, "
                                                f"or name one with --worker; workers: {known}")
    return chosen


def _named(standing: Reports, missing: list[str], workers: tuple[str, ...], known: str) -> Reports:
    chosen: Reports = {}
    for name in workers:
        fitting = [boot for boot in standing if boot.startswith(name)]
        silent = [boot for boot in missing if boot.startswith(name)]
        if len(fitting) + len(silent) > 1:
            raise RequestError(ErrorCode.BAD_REQUEST, f"several workers begin with {name}: "
                                                      f"{', '.join(sorted(fitting + silent))}")
        if not fitting:
            why = f"worker {silent[0]} does not answer: it is hung or gone" if silent else f"there is no worker {name}"
            raise RequestError(ErrorCode.NOT_FOUND, f"{why}; workers that answer: {known}")
        chosen[fitting[0]] = standing[fitting[0]]
    return chosen


def _tell_all(operator: Operator, chosen: Reports, do: str, over: float | None = None) -> Reports:
    """Have all of them do it.  Raises BrokerUnavailable when one does not answer."""
    told, missing = operator.tell(chosen, do, over)
    if missing:
        raise BrokerUnavailable(f"no answer from {', '.join(missing)}; the others have done it: try again, or look "
                                f"with wsapp drain --status")
    return told


def _drain(operator: Operator, chosen: Reports, over: float | None, wait: float, quiet: bool) -> Reports:
    """Begin and see it through.  Raises RequestError when clients are left after `wait` seconds."""
    told = _tell_all(operator, chosen, "begin", over)
    deadline, progress = time.monotonic() + wait, _Progress(quiet)
    while True:
        progress.show(told)
        leaving = [boot for boot, at in told.items() if at["state"] == "draining"]
        if not leaving:
            progress.end()
            return told
        if time.monotonic() > deadline:
            progress.end()
            left, where = sum(told[boot]["clients"] for boot in leaving), ", ".join(sorted(leaving))
            raise RequestError(ErrorCode.LIMIT, f"after {wait:g} s {left} clients are left on {where}; the drain "
                                                f"goes on: see wsapp drain --status")
        time.sleep(LOOK)
        _look(operator, told, leaving)


def _look(operator: Operator, told: Reports, leaving: list[str]) -> None:
    """Renew the reports.  A worker that ended meanwhile has no clients either."""
    found, missing = operator.tell(leaving, "tell")
    told.update(found)
    if missing:
        alive = operator.workers()
        told.update({boot: {**told[boot], "state": "ended", "clients": 0} for boot in missing if boot not in alive})


class _Progress:
    """One line that is redrawn on a terminal, else a line now and then; on stderr."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._redraws = quiet, not quiet and sys.stderr.isatty()
        self._shown, self._at = "", 0.0

    def show(self, told: Reports) -> None:
        left, all_ = (sum(at[what] for at in told.values()) for what in ("clients", "told"))
        done = sum(at["state"] != "draining" for at in told.values())
        line = f"{left} of {all_} clients left, {done} of {len(told)} workers drained"
        now = time.monotonic()
        if self._quiet or line == self._shown or (not self._redraws and now - self._at < LINE_EVERY):
            return
        self._shown, self._at = line, now
        click.echo(f"\r\x1b[K{line}" if self._redraws else line, err=True, nl=not self._redraws)

    def end(self) -> None:
        if self._redraws and self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)


def _say(told: Reports, as_json: bool) -> None:
    for boot, at in sorted(told.items()):
        if as_json:
            click.echo(json.dumps({"worker": boot, **at}))
        else:
            left = f"{at['told']} clients told, in {at['took']:.1f} s" if at["state"] == "drained" else \
                   f"{at['clients']} clients"
            click.echo(f"{boot}  pid {at['pid']}  {at['server']}  {at['state']}  {left}")
