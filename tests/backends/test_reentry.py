"""Where Python enters an emitter again, or leaves it in the middle: fork, signal handlers, finalizers, time limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.valkey import Valkey
from wsapp.core.ports import HistoryQuery
from wsapp.emitter import Emitter

ROOT = Path(__file__).resolve().parent.parent.parent
BEGIN = """
import os, random, signal, sys, threading, time
from wsapp.emitter import Emitter
emitter = Emitter(sys.argv[1], timeout=20.0)
def publish(text):
    return emitter.broadcast_agent_thought({"agentId": "a", "thought": text}).id
publish("first")
"""
FORKS = BEGIN + """
over = threading.Event()
def busy():
    while not over.is_set():
        publish("busy")
threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads: thread.start()
children = []
for number in range(20):
    child = os.fork()
    if child == 0:
        publish(f"child {number}")
        os._exit(0)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
over.set()
for thread in threads: thread.join()
print(codes.count(0))
"""
# A signal handler and a finalizer publish while the main thread does.
HANDLERS = BEGIN + """
made = []
def handler(*_):
    made.append(publish("handler"))
class Garbage:
    def __init__(self):
        self.me = self
    def __del__(self):
        made.append(publish("finalizer"))
signal.signal(signal.SIGALRM, handler)
for number in range(300):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.002))
    if number % 10 == 0:
        Garbage()
        import gc; gc.collect()
    made.append(publish("main"))
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(made) == len(set(made)) and len(made) > 330)
"""
# What the application raises in the middle of a publish is its own: for it, in its thread, and no answer of the server.
LIMITS = BEGIN + """
class Limit({base}): pass
raised, caught, wrong, over = [], [], [], threading.Event()
def handler(*_):
    raised.append(1)
    raise Limit
def busy():
    while not over.is_set():
        try:
            publish("busy")
        except BaseException as error:
            wrong.append(repr(error))
threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads: thread.start()
signal.signal(signal.SIGALRM, handler)
for number in range(400):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.003))
        publish("main")
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Limit:
        caught.append(1)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
over.set()
for thread in threads: thread.join()
# A few are raised while the interpreter or redis-py closes a connection for good, where both ignore what is raised.
print(len(raised) * 0.95 < len(caught) > 50, wrong[:3], publish("last") != "")
"""


def run(script: str, url: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, url], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def ids(url: str) -> list[str]:
    with Emitter(url) as emitter:
        page = emitter._backend.broker.read([HistoryQuery("agent:a", since=0, limit=1_000_000)])[0]
    return [publication.id for publication in page.publications]


def test_a_child_of_a_process_that_publishes_can_publish(own_valkey: Valkey) -> None:
    assert run(FORKS, own_valkey.url) == "20"


def test_a_handler_and_a_finalizer_may_publish_during_a_publish(own_valkey: Valkey) -> None:
    assert run(HANDLERS, own_valkey.url) == "True"


@pytest.mark.parametrize("base", ["Exception", "OSError", "TimeoutError", "KeyboardInterrupt"])
def test_a_time_limit_ends_the_publish_it_was_set_for_and_nothing_else(own_valkey: Valkey, base: str) -> None:
    assert run(LIMITS.replace("{base}", base), own_valkey.url) == "True [] True"
    recorded = ids(own_valkey.url)
    assert len(recorded) == len(set(recorded)), "nothing is recorded twice"
