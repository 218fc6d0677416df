"""A process that must be patched for gevent is replaced by itself, or told how."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import OURS, ROOT
from wsapp.stock.patching import FIX, restarted_environ

SCRIPT = """
import os, sys, time
from wsapp.stock.patching import is_patched, require_patched
print("begin", is_patched(), sys.argv[1:], os.environ.get("PYTHONPATH"), flush=True)
require_patched()
print("end", is_patched(), time.sleep.__module__, "sitecustomize" in sys.modules, sys.path[0], flush=True)
"""


def run(*arguments: str, stdin: str = "", path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False,
                          input=stdin, env={**clean, "PYTHONPATH": path})


def test_a_script_begins_again_patched_with_all_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run("-W", "error::SyntaxWarning", str(tmp_path / "script.py"), "a b", "--c")
    assert done.stdout.splitlines() == [
        f"begin False ['a b', '--c'] {ROOT}", f"begin True ['a b', '--c'] {ROOT}",
        f"end True gevent.hub True {tmp_path}"], done.stderr
    assert done.stderr == ""


def test_another_sitecustomize_is_run_too(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "sitecustomize.py").write_text("print('theirs')\n")
    done = run(str(tmp_path / "script.py"), path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["theirs", "begin", "theirs", "begin", "end"]


@pytest.mark.parametrize("arguments", [("-c", SCRIPT), ("-", "x")])
def test_where_there_is_no_program_to_start_again_the_fix_is_told(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, stdin=SCRIPT)
    assert done.returncode == 1
    assert f"RuntimeError: {FIX}" in done.stderr


def test_a_python_that_takes_nothing_from_the_environment_is_not_started_for_ever(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{SCRIPT}")
    done = run("-E", str(tmp_path / "script.py"))
    assert done.stdout.count("begin") == 2
    assert f"RuntimeError: {FIX}" in done.stderr


def test_the_environment_of_the_restart() -> None:
    told = restarted_environ({"PYTHONPATH": "/a", "X": "y"})
    assert told["X"] == "y" and told["PYTHONPATH"].endswith(f"patched{os.pathsep}/a")
    assert os.pathsep not in restarted_environ({})["PYTHONPATH"]
