"""Settings of the machine stay out of these tests."""

from __future__ import annotations

import os

import pytest

from tests.blueprints.conftest import OURS


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)
