"""The workers' shared directory: nobody else can have it, and it comes back when it is removed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from wsapp.transport import runtime_directory
from wsapp.transport.runtime_directory import base, make, remove, require


@pytest.fixture(autouse=True)
def _nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_it_is_ours_alone_and_its_name_cannot_be_known(tmp_path: Path) -> None:
    first, second = make(), make()
    assert first != second and first.parent == tmp_path
    assert first.stat().st_mode & 0o777 == 0o700
    assert str(os.getuid()) not in first.name.removeprefix("wsapp-").split("-")
    require(first)


@pytest.mark.parametrize("name", ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"])
def test_a_runtime_directory_comes_before_the_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                             name: str) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv(name, f"{run}:{tmp_path}/more")
    assert base() == tmp_path, "one that is not there is passed over"
    run.mkdir()
    assert base() == run
    assert make().parent == run


def test_it_is_made_again(tmp_path: Path) -> None:
    path = make()
    remove(path)
    remove(path)
    require(path)
    assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o755, 0o777])
def test_a_loose_one_is_refused(mode: int) -> None:
    path = make()
    path.chmod(mode)
    with pytest.raises(PermissionError, match="remove it"):
        require(path)


def test_a_foreign_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path, stranger = make(), os.getuid() + 1
    monkeypatch.setattr(runtime_directory.os, "getuid", lambda: stranger)
    with pytest.raises(PermissionError):
        require(path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to(make())
    with pytest.raises(PermissionError):
        require(path)
