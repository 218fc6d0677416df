"""`config/` is what the repository's app loads."""

from __future__ import annotations

import os

import pytest

from app import create_app
from config import CLASSES, chosen
from wsapp.errors import SettingsError
from wsapp.settings import load_settings


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_valid(name: str) -> None:
    load_settings({"WSAPP_ENV": name}, chosen({"WSAPP_ENV": name}))


def test_the_app_loads_the_class_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("WSAPP_", "WEBSOCKET_", "PING_", "REDIS_")):
            monkeypatch.delenv(name)
    settings = create_app().extensions["wsapp"].settings
    assert "http://localhost:5173" in settings.websocket_cors_origin
    assert settings.sources["websocket_cors_origin"] == "app.config"
    monkeypatch.setenv("WSAPP_ENV", "testing")
    assert create_app().extensions["wsapp"].settings.ping_interval == 1.0
    monkeypatch.setenv("PING_INTERVAL", "3000")
    assert create_app().extensions["wsapp"].settings.ping_interval == 3.0  # the environment wins
    assert create_app({"PING_INTERVAL": 4000}).extensions["wsapp"].settings.ping_interval == 4.0
    monkeypatch.setenv("WSAPP_ENV", "prod")
    with pytest.raises(SettingsError, match="production"):
        create_app()
