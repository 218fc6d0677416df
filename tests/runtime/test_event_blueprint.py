"""Socket events and routes of one feature."""

from __future__ import annotations

from typing import Any

from flask import Flask

from wsapp.runtime.event_blueprint import Call, EventBlueprint


def test_it_collects_handlers_and_is_a_flask_blueprint() -> None:
    feature = EventBlueprint("feature", __name__, url_prefix="/feature")

    @feature.event("ask")
    def ask(call: Call, payload: Any) -> dict[str, object]:
        return {"told": payload}

    @feature.get("/")
    def page() -> str:
        return "page"

    assert feature.events == {"ask": ask}
    app = Flask("host")
    app.register_blueprint(feature)
    assert app.test_client().get("/feature/").text == "page"


def test_two_calls_do_not_share_what_comes_after() -> None:
    one, two = Call(None, None), Call(None, None)  # type: ignore[arg-type]
    one.after.append(print)
    assert two.after == []
