"""`wsapp run`: any command as an agent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final

import click

from wsapp import schemas
from wsapp.cli.command_output import Line, LineSplitter, progress_of
from wsapp.cli.outlet import Outlet
from wsapp.core.events import Draft
from wsapp.emitter import Emitter
from wsapp.errors import PayloadError
from wsapp.settings import Settings, load_settings

READ_SIZE: Final = 65_536
MAX_LINE: Final = 16_384
AFTER_EXIT: Final = 2.0  # seconds of silence after which output held open by the command's own children is left
PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT)
FROM_TERMINAL: Final = frozenset({signal.SIGINT, signal.SIGQUIT})


class Story:
    """What is told about one run: its lines as thoughts, its state as task updates."""

    def __init__(self, agent: str, task: str | None, project: str | None, max_event: int) -> None:
        self._ids = {name: id for name, id in (("agentId", agent), ("taskId", task), ("projectId", project)) if id}
        self._max_event = max_event
        self._project_room = (schemas.room_name("project", project),) if project else ()
        task_room = (schemas.room_name("task", task),) if task else ()
        self._thought_options: dict[str, Any] = {"also_to": (*task_room, *self._project_room)}
        self._lines = 0
        self.has_task = bool(task)
        self.max_line = max(16, min(MAX_LINE, (max_event - 4096) // 6))  # JSON writes a byte with up to six
        self.thought("-", count=False)  # bad ids are told before the command starts

    def thought(self, text: str, stream: str = "stdout", *, count: bool = True) -> Draft:
        """One line; `line` counts from 1 over both streams, which makes repeats after an outage visible."""
        self._lines += count
        shown = text or " "  # an empty line is one too; an empty thought is none
        data = {"agentId": self._ids["agentId"], "thought": shown, **self._ids, "line": self._lines}
        if stream != "stdout":
            data["stream"] = stream
        return schemas.thought_draft(data, now_ms=int(time.time() * 1000), max_bytes=self._max_event,
                                     **self._thought_options)

    def state(self, status: str, message: str | None = None, progress: int | None = None) -> Draft | None:
        """The task's state, or None when the run is no task."""
        if not self.has_task:
            return None
        given = {"status": status, "message": message, "progress": progress}
        data = {**self._ids, **{name: value for name, value in given.items() if value is not None}}
        return schemas.task_draft(data, now_ms=int(time.time() * 1000), max_bytes=self._max_event,
                                  also_to=self._project_room)


class Pump(threading.Thread):
    """Copies one stream of the command to the terminal and tells its lines."""

    def __init__(self, source: int, target: int, name: str, run: Run) -> None:
        super().__init__(name=f"wsapp-{name}", daemon=True)
        self._source, self._target, self._stream, self._run = source, target, name, run
        self._splitter = LineSplitter(run.story.max_line)
        self._echo = True

    def run(self) -> None:
        last = time.monotonic()
        poll = select.poll()
        poll.register(self._source, select.POLLIN | select.POLLHUP)
        while True:
            if not poll.poll(500):
                if self._run.exited.is_set() and time.monotonic() - last > AFTER_EXIT:
                    break
                continue
            data = os.read(self._source, READ_SIZE)
            if not data:
                break
            last = time.monotonic()
            self._show(data)
            self._run.tell(self._splitter.feed(data), self._stream)
            self._run.tell_progress(self._splitter.partial.decode("utf-8", "replace"), ended=False)
        self._run.tell(self._splitter.end(), self._stream)

    def _show(self, data: bytes) -> None:
        view = memoryview(data)
        while self._echo and view:
            try:
                view = view[os.write(self._target, view):]
            except BlockingIOError:  # somebody set the terminal non-blocking
                select.select([], [self._target], [])
            except OSError:  # its reader has gone; the watchers of the rooms have not
                self._echo = False


class Run:
    """One command from start to exit status."""

    def __init__(self, story: Story, outlet: Outlet) -> None:
        self.story, self._outlet = story, outlet
        self.exited = threading.Event()
        self.too_large = 0
        self._telling = threading.Lock()
        self._progress: int | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def tell(self, lines: Sequence[Line], stream: str) -> None:
        """Publish lines; blocks, and so slows the command, while the queue is full."""
        drafts = []
        with self._telling:  # one counter and one order for both streams
            for line in lines:
                text = line.text()
                self.tell_progress(text)
                try:
                    drafts.append(self.story.thought(text, stream))
                except PayloadError:
                    self.too_large += 1
            self._outlet.put(drafts)

    def tell_progress(self, text: str, *, ended: bool = True) -> None:
        """Publish the progress that a text states, when it is new."""
        if not self.story.has_task or ("%" not in text and "/" not in text):
            return
        progress = progress_of(text, ended=ended)
        if progress is not None and progress != self._progress:
            self._progress = progress
            draft = self.story.state("in_progress", progress=progress)
            if draft is not None:
                self._outlet.put_state(draft)

    def start(self, command: Sequence[str]) -> int | None:
        """Start the command.  The exit status of a shell, 127 or 126, when that is not possible."""
        environment = {"PYTHONUNBUFFERED": "1", **os.environ}  # lines are to be seen when they are printed
        self._pass_signals_on()
        try:
            self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,  # noqa: S603
                                           env=environment, bufsize=0)
        except FileNotFoundError:
            return 127
        except OSError:
            return 126
        draft = self.story.state("in_progress", f"started {os.path.basename(command[0])}")
        self._outlet.put([draft] if draft else [])  # among the lines: no progress takes its place
        return None

    def wait(self) -> int:
        """Pump until the command has ended and its output too.  Its exit status, 128 + n for signal n."""
        child = self._child
        assert child is not None and child.stdout is not None and child.stderr is not None  # noqa: S101
        pumps = [Pump(child.stdout.fileno(), 1, "stdout", self), Pump(child.stderr.fileno(), 2, "stderr", self)]
        for pump in pumps:
            pump.start()
        status = _await(child)
        self.exited.set()
        for pump in pumps:
            pump.join()
        return status if status >= 0 else 128 - status

    def last_state(self, status: int) -> Draft | None:
        """The final task update for an exit status."""
        if status == 0:
            return self.story.state("completed", "exit status 0", 100)
        if status > 128 and self._child is not None and self._child.returncode < 0:
            return self.story.state("failed", f"ended by {_signal_name(status - 128)}", self._progress)
        words = {127: "command not found", 126: "command cannot be run"} if self._child is None else {}
        return self.story.state("failed", words.get(status, f"exit status {status}"), self._progress)

    def _pass_signals_on(self) -> None:
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if number in FROM_TERMINAL and _in_foreground():
            return  # the terminal has sent it to the command too
        if self._child is not None:
            self._child.send_signal(number)


def _await(child: subprocess.Popen[bytes]) -> int:
    """`child.wait()` that misses no signal.  One that comes just before a wait begins would be handled only when the
    child has ended; here it leaves a byte to wake up for."""
    wake, news = os.pipe()
    os.set_blocking(news, False)
    ended = threading.Event()

    def reap() -> None:
        child.wait()
        ended.set()
        os.write(news, b"\0")

    before = signal.set_wakeup_fd(news, warn_on_full_buffer=False)
    waiter = threading.Thread(target=reap, name="wsapp-wait", daemon=True)
    try:
        waiter.start()
        while not ended.is_set():
            select.select([wake], [], [])
            os.read(wake, READ_SIZE)
        waiter.join()
    finally:
        signal.set_wakeup_fd(before)
        if ended.is_set():
            os.close(wake)
            os.close(news)
    return child.returncode


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _warn(message: str) -> None:
    click.echo(f"wsapp run: {message}", err=True)


def _run(story: Story, settings: Settings, command: Sequence[str]) -> int:
    outlet = Outlet(lambda: Emitter(settings.redis_url), _warn)
    run = Run(story, outlet)
    status = run.start(command)
    if status is None:
        status = run.wait()
    else:
        _warn(f"{command[0]}: {'command not found' if status == 127 else 'cannot be run'}")
    lost = outlet.finish(run.last_state(status)) + run.too_large
    if lost:
        _warn(f"{lost} of {outlet.published + lost} events were not published")
    return status


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--agent", required=True, help="Whose thoughts the lines are.")
@click.option("--task", help="The task whose state the command's is.")
@click.option("--project", help="The project that is told too.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_command(agent: str, task: str | None, project: str | None, command: tuple[str, ...]) -> int:
    """Run COMMAND and publish it live.

    Each line of its output (stdout and stderr) becomes a thought of the agent, told in the rooms of the task and
    the project too.  With --task its start, its progress ("42%" or "3/10" in a line) and its exit status become
    task updates.  The output still appears here; signals are passed on; the exit status is the command's.

    A fast command is slowed rather than a line lost.  When Redis is away the command runs on: its last 10000
    events wait, and what was lost is told at the end.  Only the program's name is published, not its arguments.

    \b
    wsapp run --agent coder -- python agent.py
    wsapp run --agent ci --task build-7 --project web -- make test
    """
    settings = load_settings(os.environ)
    return _run(Story(agent, task, project, settings.max_event), settings, command)
