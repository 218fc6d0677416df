"""gevent's monkey patching at the right time: before the program has imported anything.

A program that calls `socketio.run(app)` or is run by `flask run` has imported `ssl`, `threading` and whatever holds
on to parts of them, long before wsapp is asked to serve.  Patching then breaks TLS clients (gevent warns of it).  So
the process is replaced by itself once, with the same command line, and patched at the very beginning.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gevent import monkey

from wsapp.stock import patched

MARK: Final = "_WSAPP_PYTHONPATH"  # PYTHONPATH as it was; removed by a start that has patched
FIX: Final = ("wsapp serves on gevent, and this process cannot be restarted to be patched for it: put `from gevent "
              "import monkey; monkey.patch_all()` before all other imports of the main module, or use `wsapp serve`")


def is_patched() -> bool:
    """Whether the standard library is gevent's."""
    return bool(monkey.is_module_patched("socket") and monkey.is_module_patched("threading"))


def require_patched() -> None:
    """Return in a patched process; replace an unpatched one by itself, patched.

    Raises RuntimeError with the fix in it where that cannot be: an interactive interpreter, `python -c`, a notebook,
    and Python's options -I, -E and -S.
    """
    if is_patched():
        return
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main is None or not Path(sys.argv[0]).exists() or sys.flags.interactive or MARK in os.environ:
        raise RuntimeError(FIX)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], restarted_environ(os.environ))  # noqa: S606


def restarted_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the restarted process: Python finds our `sitecustomize` first."""
    before = environ.get("PYTHONPATH", "")
    folder = str(Path(patched.__file__).resolve().parent)
    return {**environ, MARK: before, "PYTHONPATH": folder + (os.pathsep + before if before else "")}
