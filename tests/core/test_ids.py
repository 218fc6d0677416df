"""Ids: unique over processes and threads, growing within one, and saying when they were made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading

from wsapp.core.ids import STEPS, Ids, made_ms, new_id


def test_ids_grow_also_when_the_clock_goes_back() -> None:
    now = [1_790_000_000.0]
    ids = Ids(lambda: now[0])
    made = [ids.new() for _ in range(3 * STEPS)]
    now[0] -= 3600
    made += [ids.new() for _ in range(100)]
    now[0] += 7200
    made.append(ids.new())
    assert made == sorted(set(made))
    assert all(re.fullmatch("[0-9a-f]{24}", id) for id in made)
    assert made_ms(made[0]) == 1_790_000_000_000.0
    assert made_ms(made[-1]) == 1_790_003_600_000.0


def test_makers_with_the_same_clock_make_different_ids() -> None:
    one, other = Ids(lambda: 5.0), Ids(lambda: 5.0)
    assert one.new()[:14] == other.new()[:14]
    assert one.new() != other.new()


def test_threads_never_make_the_same() -> None:
    made: list[str] = []

    def run() -> None:
        made.extend([new_id() for _ in range(2000)])

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 16_000


FORKED = """
import os, sys
from wsapp.core.ids import new_id
mine = new_id()
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, new_id().encode())
    os._exit(0)
print(mine, os.read(reading, 100).decode(), new_id())
"""


def test_a_forked_child_makes_others_than_its_parent() -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    out = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, cwd=root).stdout
    before, child, after = out.split()
    assert before[14:] == after[14:] != child[14:]
