"""Where wsapp's own routes are in the host application: below WSAPP_PREFIX, and never hidden by the host's."""

from __future__ import annotations

from flask import Blueprint, Flask

from wsapp.blueprints.api import api
from wsapp.blueprints.health import health
from wsapp.blueprints.pages import index, pages
from wsapp.errors import SettingsError

OWN = (health, api, pages)


def mount(app: Flask, prefix: str) -> None:
    """Register the routes for probes and programs."""
    for blueprint in (health, api):
        _register(app, blueprint, prefix)


def mount_page(app: Flask, prefix: str) -> str:
    """Register the live page, when all routes of the host are known; returns its path.  It is the front page, or
    `/live` where the host has a front page of its own.  Raises SettingsError when the host has a route that is ours."""
    _register(app, pages, prefix)
    front = f"{prefix}/"
    free = not any(rule.rule == front and "GET" in (rule.methods or ()) for rule in app.url_map.iter_rules())
    if free:
        app.add_url_rule(front, f"{pages.name}.front", index)
    _require_no_collision(app)
    return front if free else f"{prefix}/live"


def _register(app: Flask, blueprint: Blueprint, prefix: str) -> None:
    app.register_blueprint(blueprint, url_prefix=prefix + (blueprint.url_prefix or "") or None)


def _require_no_collision(app: Flask) -> None:
    """Of two routes with one path Flask serves the first and says nothing of the other."""
    own = {rule.rule: rule for rule in app.url_map.iter_rules() if _is_own(rule.endpoint)}
    for rule in app.url_map.iter_rules():
        same = own.get(rule.rule)
        if same is not None and not _is_own(rule.endpoint) and (rule.methods or set()) & (same.methods or set()) - {
                "OPTIONS"}:
            raise SettingsError(f"the application has a route {rule.rule} ({rule.endpoint}), and so has wsapp: move "
                                "wsapp's routes with WSAPP_PREFIX=/wsapp")


def _is_own(endpoint: str) -> bool:
    return endpoint.partition(".")[0] in {blueprint.name for blueprint in OWN}
