"""The shared page: who is ahead, among those who live."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from wsapp.transport.balance import DRAINED, SLOT, SLOTS, Balance


def colleague(directory: Path, number: int, pid: int, connections: int) -> None:
    """What another process wrote."""
    with (directory / "load").open("r+b") as page:
        page.seek(number % SLOTS * SLOT.size)
        page.write(SLOT.pack(pid, connections))


def test_one_alone_is_never_ahead(tmp_path: Path) -> None:
    balance = Balance(tmp_path, 1)
    assert not balance.is_ahead(0)
    assert not balance.is_ahead(100)
    balance.close()


def test_ahead_means_that_a_living_colleague_has_fewer(tmp_path: Path) -> None:
    balance = Balance(tmp_path, 1)
    colleague(tmp_path, 2, os.getppid(), 5)
    colleague(tmp_path, 3, os.getppid(), 9)
    assert not balance.is_ahead(4)
    assert not balance.is_ahead(5)
    assert balance.is_ahead(6)
    balance.close()


def test_the_dead_do_not_count(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    balance = Balance(tmp_path, 1)
    colleague(tmp_path, 2, dead.pid, 0)
    assert not balance.is_ahead(50)
    balance.close()


def test_a_worker_tells_its_own_and_leaves_with_nothing(tmp_path: Path) -> None:
    balance = Balance(tmp_path, SLOTS + 2)
    balance.is_ahead(7)
    assert SLOT.unpack_from((tmp_path / "load").read_bytes(), 2 * SLOT.size) == (os.getpid(), 7)
    balance.close()
    balance.close()
    assert SLOT.unpack_from((tmp_path / "load").read_bytes(), 2 * SLOT.size) == (0, 0)
    assert (tmp_path / "load").stat().st_mode & 0o077 == 0


def test_a_drained_one_is_ahead_of_all_who_take_clients(tmp_path: Path) -> None:
    balance = Balance(tmp_path, 1)
    assert not balance.is_ahead(DRAINED), "alone it answers itself"
    colleague(tmp_path, 2, os.getppid(), 1_000_000)
    assert balance.is_ahead(DRAINED)
    colleague(tmp_path, 2, os.getppid(), DRAINED)
    assert not balance.is_ahead(DRAINED), "when all are drained each answers itself"
    balance.close()


def test_a_page_that_was_removed_is_shared_again(tmp_path: Path) -> None:
    directory = tmp_path / "w"
    directory.mkdir(mode=0o700)
    first, second = Balance(directory, 1), Balance(directory, 2)
    (directory / "load").unlink()
    directory.rmdir()
    first.heal()
    second.heal()
    colleague(directory, 3, os.getppid(), 1)
    assert first.is_ahead(2) and second.is_ahead(2)
    for balance in (first, second):
        balance.heal()
        balance.close()
