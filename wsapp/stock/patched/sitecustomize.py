"""Imported by Python at its start, before any other module of the program, when `wsapp.stock.patching` restarts it.

Patches the standard library for gevent, takes this folder off the paths again, for this process and those it starts,
and lets a sitecustomize that this one hides do its work.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def restore_paths() -> None:
    """Undo what `restarted_environ` has put into the environment."""
    before = os.environ.pop("_WSAPP_PYTHONPATH", "")
    if before:
        os.environ["PYTHONPATH"] = before
    else:
        os.environ.pop("PYTHONPATH", None)
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if not path or Path(path).resolve() != here]


def import_hidden() -> None:
    """Run the sitecustomize that would have been found without this one, if there is any."""
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


if "_WSAPP_PYTHONPATH" in os.environ:
    from gevent import monkey

    monkey.patch_all()
    restore_paths()
    import_hidden()
