"""What a restarted process begins with; the rest is in test_patching.py, with real processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from wsapp.stock import patched
from wsapp.stock.patched.sitecustomize import import_hidden, restore_paths
from wsapp.stock.patching import MARK


@pytest.mark.parametrize("before", ["", "/a:/b"])
def test_paths_are_as_before(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    folder = str(Path(patched.__file__).parent)
    monkeypatch.setenv(MARK, before)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{before}")
    monkeypatch.setattr(sys, "path", [folder, "", "/a"])
    restore_paths()
    assert os.environ.get("PYTHONPATH", "") == before
    assert MARK not in os.environ
    assert sys.path == ["", "/a"]


def test_a_hidden_one_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.told_by_test = 7\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    import_hidden()
    assert sys.told_by_test == 7  # type: ignore[attr-defined]
    del sys.told_by_test  # type: ignore[attr-defined]
