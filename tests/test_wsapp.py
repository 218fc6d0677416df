"""The public names, and what they do not drag in."""

from __future__ import annotations

import subprocess
import sys

import pytest

import wsapp


def test_public_names() -> None:
    assert set(wsapp.__all__) <= set(dir(wsapp))
    assert wsapp.__all__ == sorted(wsapp.__all__)
    for name in wsapp.__all__:
        assert getattr(wsapp, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = wsapp.nonsense


@pytest.mark.parametrize("use", ["wsapp.Emitter", "wsapp.Emitter('redis://127.0.0.1:1')", "wsapp.Receipt",
                                 "wsapp.ConnectionManager", "wsapp.EventThrottler"])
def test_light_names(use: str) -> None:
    code = (f"import sys, wsapp; {use}; "
            "print([name for name in ('gevent', 'flask', 'socketio', 'gunicorn') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_loaded_before_it_is_named() -> None:
    code = "import sys, wsapp; print(sorted(name for name in sys.modules if name.startswith('wsapp')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "['wsapp']"
