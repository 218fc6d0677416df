"""A feature's socket events and its HTTP routes in one file, registered later, as Flask does with routes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from flask import Blueprint
from marshmallow import Schema

from wsapp.core.session import Session
from wsapp.errors import ErrorCode, PayloadError, RequestError, WsappError
from wsapp.runtime.inbound import Verdict
from wsapp.schemas import RequestSchema

if TYPE_CHECKING:
    from wsapp.runtime.hub import Hub

MAX_LIST: Final = 100  # items of one list
LIST_ITEMS_PER_PACKET: Final = 10  # of a list that count as one packet where packets are limited

Answer = dict[str, object]
Handler = Callable[[Any, Any], Any]


@dataclass(slots=True)
class Call:
    """One event of a client on its way through a handler.  What is put into `after` runs once the acknowledgement is
    sent, before the client's next event is looked at."""

    session: Session
    hub: Hub
    after: list[Callable[[], None]] = field(default_factory=list)

    def charge(self, size: int) -> None:
        """The call made the server read or write `size` bytes: see `Inbound.charge`."""
        self.hub.inbound.charge(self.session.peer.sid, self.session.user_id, size)


@dataclass(frozen=True, slots=True)
class Event:
    """An event of clients: `schema` says what it takes, `answer` what stands beside `ok` in the acknowledgement."""

    name: str
    handler: Handler
    schema: RequestSchema | None = None
    answer: type[Schema] | None = None
    lists: bool = False

    def __call__(self, call: Call, payload: Any) -> Answer | None:
        """Handle the payload of one event.  Raises WsappError."""
        if self.schema is None:
            answer: Answer | None = self.handler(call, payload)
            return answer
        if self.lists:
            return self._listed(call, payload, self.schema)
        parsed: Answer | None = self.handler(call, self.schema.parse(payload, self.name))
        return parsed

    def _listed(self, call: Call, payload: Any, schema: RequestSchema) -> Answer:
        if isinstance(payload, list):
            return {"rooms": list(self._each(call, payload, schema))}
        [result] = self.handler(call, [schema.parse(payload, self.name)])
        if isinstance(result, WsappError):
            raise result
        answer: Answer = result
        return answer

    def _each(self, call: Call, payload: list[Any], schema: RequestSchema) -> Iterator[Answer]:
        """The answer to each item, in the order of the list.  Raises PayloadError and RequestError (`rate_limited`)."""
        if not 0 < len(payload) <= MAX_LIST:
            problem = f"must have 1 to {MAX_LIST} items, has {len(payload)}"
            raise PayloadError(f"{self.name}: a list {problem}", {"payload": [problem]})
        if len(payload) >= LIST_ITEMS_PER_PACKET:
            _charge(call, len(payload) // LIST_ITEMS_PER_PACKET)
        requests = [self._parsed(item, schema) for item in payload]
        wanted = [request for request in requests if not isinstance(request, PayloadError)]
        results = iter(self.handler(call, wanted) if wanted else ())
        for request in requests:
            result = request if isinstance(request, PayloadError) else next(results)
            yield {"ok": False, "error": result.told()} if isinstance(result, WsappError) else {"ok": True, **result}

    def _parsed(self, item: Any, schema: RequestSchema) -> Any:
        try:
            return schema.parse(item, self.name)
        except PayloadError as error:
            return error


def _charge(call: Call, packets: int) -> None:
    session, admit = call.session, call.hub.inbound.admit
    if any(admit(session.peer.sid, session.user_id) is not Verdict.TAKE for _ in range(packets)):
        call.hub.metrics.count("inboundRefused")
        raise RequestError(ErrorCode.RATE_LIMITED, "too many items at once (WSAPP_MAX_INBOUND_PER_SEC)")


class EventBlueprint(Blueprint):
    """A Flask blueprint that also collects handlers of socket events.

        updates = EventBlueprint("updates", __name__)

        @updates.event("set-rate", RateSchema(), RateAnswer)
        def set_rate(call, request): ...

    A handler gets the call and the request that the schema made of the event's first argument, or without a schema
    the argument itself (None when there is none); what it returns is merged into the acknowledgement `{ok: true, ...}`.
    A WsappError becomes `{ok: false, error}`.  The schema and `answer`, a schema that only describes, are also what
    the AsyncAPI document says of the event.
    """

    def __init__(self, name: str, import_name: str, **options: Any) -> None:
        super().__init__(name, import_name, **options)
        self.events: dict[str, Event] = {}

    def event(self, name: str, schema: RequestSchema | None = None, answer: type[Schema] | None = None, *,
              lists: bool = False) -> Callable[[Handler], Handler]:
        """Register a handler for the event `name`.  With `lists` clients may also send a list of 1 to `MAX_LIST`
        payloads: the handler gets a list of requests, and returns an answer or a WsappError for each; the client gets
        `{rooms: [...]}`, with `ok` for each of them."""

        def register(handler: Handler) -> Handler:
            self.events[name] = Event(name, handler, schema, answer, lists)
            return handler

        return register
