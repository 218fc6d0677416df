"""SCRIPT_NAME, by the environment and by a proxy's word."""

from __future__ import annotations

from typing import Any

import pytest

from wsapp.transport.mount import Mounted


def seen(mounted: tuple[str, int], path: str, **headers: str) -> tuple[str, str]:
    """(SCRIPT_NAME, PATH_INFO) as the application gets them."""
    got: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], _start: Any) -> list[bytes]:
        got.append(environ)
        return []
    Mounted(application, *mounted)({"PATH_INFO": path, **headers}, print)
    return got[0].get("SCRIPT_NAME", ""), got[0]["PATH_INFO"]


@pytest.mark.parametrize(("mounted", "path", "told", "outcome"), [
    (("", 0), "/x", None, ("", "/x")),
    (("/app", 0), "/app/x", None, ("/app", "/x")), (("/app/", 0), "/app", None, ("/app", "")),
    (("/app", 0), "/apple", None, ("", "/apple")), (("/app", 0), "/x", None, ("", "/x")),
    (("", 1), "/x", "/app", ("/app", "/x")), (("", 1), "/x", "/a/b/", ("/a/b", "/x")),
    (("", 1), "/x", "/evil, /app", ("/app", "/x")), (("", 2), "/x", "/app, /inner", ("/app", "/x")),
    (("", 0), "/x", "/app", ("", "/x")),  # nobody's word
    (("", 1), "/x", "//evil.example", ("", "/x")), (("", 1), "/x", "/a\"b", ("", "/x")),
    (("", 1), "/x", "/..", ("", "/x")),
])
def test_below_a_path(mounted: tuple[str, int], path: str, told: str | None, outcome: tuple[str, str]) -> None:
    assert seen(mounted, path, **({"HTTP_X_FORWARDED_PREFIX": told} if told else {})) == outcome
