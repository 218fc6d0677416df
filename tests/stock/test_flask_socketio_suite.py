"""Flask-SocketIO's own test suite, run against `SocketServer(app).socketio`.

The suite comes with the source of the installed version, which the package index has (MIT licence).  Only the line that
makes the object under test is another: `socketio = SocketIO(app)`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.harness import OURS, ROOT

THEIRS = "\nsocketio = SocketIO(app)\n"
MADE = "\nfrom wsapp import SocketServer\nsocketio = SocketServer(app).socketio\n"
DIFFERENT: dict[str, str] = {}  # tests of theirs that fail with wsapp, and why; docs/flask-socketio.md names them
FEWEST = 40  # tests that the suite has had


def source(folder: Path) -> str:
    """The suite; skips the test where the index or a build is out of reach."""
    wanted = f"Flask-SocketIO=={version('Flask-SocketIO')}"
    done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                           "--no-deps", "--no-binary", "Flask-SocketIO", "--dest", str(folder), wanted],
                          capture_output=True, text=True, timeout=300, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        pytest.skip(f"no source of {wanted} here: {done.stderr.strip()[-200:]}")
    with tarfile.open(archives[0]) as archive:
        inside = next(name for name in archive.getnames() if name.endswith("/test_socketio.py"))
        found = archive.extractfile(inside)
        assert found is not None
        return found.read().decode()


def test_their_suite_with_our_object(tmp_path: Path) -> None:
    suite = source(tmp_path)
    assert suite.count(THEIRS) == 1, "the suite makes its object in another way now"
    (tmp_path / "test_socketio.py").write_text(suite.replace(THEIRS, MADE))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rf", "--tb=short", "-p", "no:cacheprovider",
                           "test_socketio.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
                          env={**clean, "PYTHONPATH": str(ROOT)})
    failed = set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE))
    assert failed == DIFFERENT.keys(), done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout + done.stderr
    assert int(passed[1]) + len(failed) >= FEWEST
