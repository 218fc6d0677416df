"""The fault machine itself: its schedule repeats, its oracle sees what is wrong, its proxy misbehaves; a short run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.fault.machine.clocks import Clocks
from tests.fault.machine.oracle import Oracle, Truth, View
from tests.fault.machine.proxy import Proxy
from tests.fault.machine.run import run
from tests.fault.machine.schedule import LANES, listed
from tests.fault.machine.stage import Stage
from tests.harness import wait_until

ROOM, TASK = "agent:a", "task:t"


def test_one_seed_is_one_schedule() -> None:
    assert listed(7, 300) == listed(7, 300) != listed(8, 300)
    kinds = {kind for faults, _ in LANES for kind in faults}
    assert {fault.kind for fault in listed(7, 1000)} == kinds
    assert all(hasattr(Stage, f"_{kind}") for kind in kinds)
    assert listed(7, 100) == [fault for fault in listed(7, 300) if fault.at < 100]


def truth(count: int = 5, room: str = ROOM, epoch: str = "e") -> Truth:
    made = Truth()
    for number in range(1, count + 1):
        made.accepted(f"id{number}", number, {room: (epoch, number)})
    return made


def view(*numbers: int, room: str = ROOM, throttled: bool = False, **joined: Any) -> View:
    made = View("c", [room], throttled)
    made.note("j", room, joined.get("epoch", "e"), joined.get("seq", 0))
    for number in numbers:
        made.event(number, f"id{number}", number)
    return made


def problems(made: View, known: Truth | None = None) -> list[str]:
    return Oracle(known or truth()).judge(made).problems


class TestOracle:
    def test_all_is_well(self) -> None:
        account = Oracle(truth()).judge(view(1, 2, 3, 2, 3, 4, 5))
        assert account.problems == []
        assert (account.counts["delivered"], account.counts["repeats"]) == (5, 2)

    def test_what_was_before_the_join_is_not_owed(self) -> None:
        assert problems(view(4, 5, seq=3)) == []

    @pytest.mark.parametrize("seen", [(1, 2, 4, 5), (1, 2, 3, 4), (2, 3, 4, 5), ()])
    def test_a_loss_is_seen(self, seen: tuple[int, ...]) -> None:
        found = problems(view(*seen))
        assert len(found) == 5 - len(seen) and "never saw" in found[0]

    def test_a_broken_order_is_seen(self) -> None:
        assert "came at 2 after" in problems(view(1, 3, 2, 4, 5))[0]

    def test_what_was_told_as_missed_may_come_late(self) -> None:
        late = view(1)
        late.note("s", recovered=False, rooms={ROOM: ("e", 3)})
        for number in (4, 2, 3, 5):
            late.event(number, f"id{number}", number)
        account = Oracle(truth()).judge(late)
        assert (account.problems, account.counts["late, after it was told as missed"]) == ([], 2)

    def test_a_double_is_seen(self) -> None:
        double = view(1, 2, 3, 4, 5)
        double.event(6, "id6", 5)
        known = truth()
        known.accepted("id6", 5, {ROOM: ("e", 6)})
        assert any("saw token 5" in problem for problem in problems(double, known))
        assert any("recorded twice" in problem for problem in Oracle(known).publishers().problems)

    def test_a_shed_range_is_told(self) -> None:
        shed = view(1, 5, throttled=True)
        shed.note("x", ROOM, first=2, last=4, count=3)
        assert Oracle(truth()).judge(shed).counts["shed and told"] == 3

    def test_more_is_missing_than_was_told(self) -> None:
        shed = view(1, 5)
        shed.note("x", ROOM, first=2, last=4, count=2)
        assert problems(shed) == [f"c: 3 missing in the shed ranges of {ROOM}, 2 told"]

    def test_what_a_twin_saw_the_session_was_sent(self) -> None:
        """Two clients with one session: each sees a part, and is told a part."""
        first, twin = view(1, 4), view(2)
        twin.note("s", recovered=False, rooms={ROOM: ("e", 3)})
        assert len(problems(first)) == 3
        first.twins.append(twin)
        account = Oracle(truth()).judge(first)
        assert account.counts["delivered"] == 3
        assert account.counts["told"] == 1
        [problem] = account.problems
        assert problem.startswith("c never saw Entry(id='id5'")

    def test_a_critical_one_may_come_late_and_is_never_shed(self) -> None:
        known = truth()
        known.critical.update((2, 4))
        late = view(1, 3, 2, 5)
        late.note("x", ROOM, first=4, last=4, count=1)
        account = Oracle(known).judge(late)
        assert account.counts["critical, delivered"] == 1
        assert [problem.endswith("is critical and was shed and told") for problem in account.problems] == [True]

    def test_what_was_queued_is_owed_unless_it_went_with_its_worker_or_with_the_data(self) -> None:
        known = truth()
        for token, (pid, at) in enumerate([(1, 0.0), (2, 0.0), (1, 50.0)], 90):
            known.promised(f"worker's {token}", token, pid, at)
        known.losses.append(55.0)
        account = Oracle(known, {2}).publishers()
        assert account.problems == ["worker's 90 (token 90) was queued by worker 1 and never recorded"]
        assert account.counts["queued, gone with its worker"] == 1
        assert account.counts["queued, and Redis's data were lost soon after"] == 1

    def test_ids_are_given_once_and_recorded_once_in_a_history(self) -> None:
        known = truth()
        known.accepted("id1", 99, {ROOM: ("f", 1)})
        known.accepted("id2", 2, {ROOM: ("e", 7)})
        known.accepted("id3", 3, {ROOM: ("f", 2)})
        assert Oracle(known).publishers().problems == [
            "id1 is both token 1 and 99", f"id2 is recorded twice in {ROOM} e: #2 and #7"]

    def test_what_was_recorded_again_was_seen_in_the_history_that_was_lost(self) -> None:
        known = truth()
        known.accepted("lost", 9, {ROOM: ("f", 3)})
        early, wrong = view(1, 2, 3, 4, 5), view(1, 2, 3, 4, 5)
        for one, seq in ((early, 6), (wrong, 4)):
            one.event(seq, "lost", 9)
        account = Oracle(known).judge(early)
        assert (account.problems, account.counts["seen before its history was lost, and recorded again"]) == ([], 1)
        assert any("as #4" in problem for problem in problems(wrong, known)), "that is another's place"

    def test_a_task_is_merged_into_a_later_update_only(self) -> None:
        known = truth(room=TASK)
        assert Oracle(known).judge(view(1, 5, room=TASK, throttled=True)).counts["merged"] == 3
        assert len(problems(view(1, 4, room=TASK, throttled=True), known)) == 1
        assert len(problems(view(1, 5, room=TASK), known)) == 3, "nothing merges without a throttle"

    def test_a_resync_covers_what_lies_between(self) -> None:
        known = truth()
        known.accepted("new1", 11, {ROOM: ("f", 1)})
        told = view(1, 2)
        told.note("r", ROOM, "f", 0)
        told.event(1, "new1", 11)
        account = Oracle(known).judge(told)
        assert (account.problems, account.counts["told"]) == ([], 3)
        untold = view(1, 2)
        untold.event(1, "new1", 11)
        assert len(problems(untold, known)) == 3

    def test_a_refused_recovery_covers_and_a_true_one_does_not(self) -> None:
        for recovered, lost in ((False, 0), (True, 2)):
            back = view(1, 2)
            back.note("s", recovered=recovered, rooms={ROOM: ("e", 4)})
            back.event(5, "id5", 5)
            assert len(problems(back)) == lost

    def test_an_event_of_several_rooms_is_owed_once(self) -> None:
        known = Truth()
        known.accepted("id", 1, {ROOM: ("e", 1), "project:p": ("f", 9)})
        both = View("c", [ROOM, "project:p"])
        both.note("j", ROOM, "e", 0)
        both.note("j", "project:p", "f", 8)
        both.event(1, "id", 1)
        assert Oracle(known).judge(both).counts["delivered"] == 1

    def test_queued_ones_are_recorded_or_gone_with_their_worker(self) -> None:
        known = truth()
        known.promised("id5", 5, 100)
        known.promised("mine", 9, 101)
        assert len(Oracle(known).publishers().problems) == 1
        assert Oracle(known, {101}).publishers().counts["queued, gone with its worker"] == 1


class TestProxy:
    @pytest.fixture
    def heard(self) -> list[bytes]:
        """What the server was told, by connection."""
        return []

    @pytest.fixture
    def echo(self, heard: list[bytes]) -> Iterator[int]:
        """A server that says everything back."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            def serve() -> None:
                while True:
                    try:
                        link, _ = listening.accept()
                    except OSError:  # closed: the test is over
                        return
                    threading.Thread(target=answer, args=(link,), daemon=True).start()

            def answer(link: socket.socket) -> None:
                heard.append(b"")
                number = len(heard) - 1
                with link:
                    while data := _read(link):
                        heard[number] += data
                        link.sendall(data)

            threading.Thread(target=serve, daemon=True).start()
            yield listening.getsockname()[1]

    def test_it_passes_cuts_doubles_swallows_and_refuses(self, echo: int, heard: list[bytes]) -> None:
        with Proxy(echo) as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as link:
                link.sendall(b"one")
                assert link.recv(10) == b"one"
                proxy.weather.deaf_down = True
                link.sendall(b"two")
                assert silent(link)
                proxy.calm()
                assert proxy.condemn() == 1
                link.sendall(b"*3\r\n$7\r\nmessage\r\n")
                assert silent(link)
                link.sendall(b"three")
                assert link.recv(100) == b"three"
                assert proxy.cut() == 1
                assert _read(link) == b""
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as link:
                link.sendall(b"before")
                assert link.recv(100) == b"before"
                assert proxy.double() == 1
                assert proxy.double() == 0, "once is enough"
                link.sendall(b"after")
                assert link.recv(100) == b"after", "what comes back on the second one is swallowed"
                assert heard[-2:] == [b"beforeafter"] * 2 or wait_until(
                    lambda: heard[-2:] == [b"beforeafter"] * 2, "both ends say the same")
                proxy.undouble()
                link.sendall(b"!")
                assert link.recv(100) == b"!"
            proxy.weather.refusing = True
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as link:
                assert _read(link) == b""


def test_clocks_jump_one_by_one_and_sleep_as_ever() -> None:
    with Clocks() as clocks:
        if clocks.library is None:
            pytest.skip("libfaketime is not installed (on Debian: sudo apt-get install libfaketime)")
        code = ("import select, sys, time\nprint('', flush=True)\nbegan = time.monotonic()\nfor line in sys.stdin:\n"
                "    select.select([], [], [], 0.05)\n    print(time.time(), time.monotonic() - began, flush=True)")
        with ExitStack() as stack:
            one, two = (stack.enter_context(subprocess.Popen(
                [sys.executable, "-c", code], env={**os.environ, **clocks.env(name)}, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True)) for name in ("one", "two"))

            def ask(process: subprocess.Popen[str]) -> tuple[float, float]:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                wall, passed = process.stdout.readline().split()
                return float(wall) - time.time(), float(passed)

            for process in (one, two):
                assert process.stdout is not None
                process.stdout.readline()
            assert abs(ask(one)[0]) < 60 > abs(ask(two)[0])
            clocks.move("one", -86_400)
            wait_until(lambda: abs(ask(one)[0] + 86_400) < 60, "a day back")
            assert abs(ask(two)[0]) < 60
            assert 0 < ask(one)[1] < 60, "the monotonic clock goes on"
            for process in (one, two):
                process.kill()


def silent(link: socket.socket) -> bool:
    """Whether nothing comes for a while."""
    link.settimeout(0.3)
    try:
        link.recv(100)
    except TimeoutError:
        return True
    finally:
        link.settimeout(5)
    return False


def _read(link: socket.socket) -> bytes:
    """What comes; nothing once the other side has closed or reset."""
    try:
        return link.recv(1000)
    except ConnectionResetError:
        return b""


@pytest.mark.cluster
@pytest.mark.node
def test_a_short_run() -> None:
    """All lanes of faults at once for a few seconds; `make chaos` does it for longer."""
    report = run(seed=3, seconds=12, watchers=16, per_second=100)
    print("\n".join(report.lines()))
    assert report.sound
    assert report.account.counts["delivered"] > 1000
    assert sum(report.stage.faults.values()) >= 5
