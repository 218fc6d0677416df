"""The directory that the workers of one gunicorn master share: for their sockets and their page of loads.

It is made by the master under a name that nobody can know before (mkdtemp), so nobody can take that name first.  A
cleaner of temporary files may remove it while the server runs; the workers notice and make it again.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path


def base() -> Path:
    """Where runtime files belong: systemd's RUNTIME_DIRECTORY, the user's XDG_RUNTIME_DIR (neither is cleaned while we
    run), else the directory for temporary files."""
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        for given in filter(None, os.environ.get(name, "").split(":")):
            path = Path(given)
            if path.is_dir() and os.access(path, os.W_OK | os.X_OK):
                return path
    return Path(tempfile.gettempdir())


def make() -> Path:
    """A new directory of this user alone (0700)."""
    return Path(tempfile.mkdtemp(prefix="wsapp-", dir=base()))


def require(path: Path) -> None:
    """Have `path` there, made again if it was removed.  Raises PermissionError when somebody else has made it."""
    path.mkdir(mode=0o700, exist_ok=True)
    facts = path.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077 or not stat.S_ISDIR(facts.st_mode):
        raise PermissionError(f"{path} is not a directory of this user alone; remove it")


def remove(path: Path) -> None:
    """The master ends: so does what its workers shared."""
    shutil.rmtree(path, ignore_errors=True)
