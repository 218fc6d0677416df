"""Publishing from any process: a Celery task, a script, a thread.  Needs neither gevent nor Flask.

    with Emitter("redis://localhost") as emitter:
        emitter.broadcast_agent_thought({"agentId": "coder", "thought": "reading the tests"})
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Protocol, Self

from wsapp import schemas
from wsapp.core.critical import Acknowledged
from wsapp.core.events import TASK_UPDATE, THOUGHT, Draft
from wsapp.core.ports import Backend, Receipt, Watching
from wsapp.errors import BrokerUnavailable, PayloadError, SettingsError
from wsapp.settings import Settings, load_settings

CHUNK_DRAFTS: Final = 500  # of one pipeline: short enough for the broker's timeout, long enough to hide the trip
CHUNK_BYTES: Final = 1_000_000

Call = Draft | tuple[Any, ...]


class PublishInterrupted(BrokerUnavailable):
    """Redis was lost in the middle of `publish_many`.  `receipts` are those of the publications that are known to
    be recorded, in order; of the next `unknown` ones nothing is known; those after them were not sent.  `retries` are
    the unknown ones for another `publish_many`, which records none of them twice while the history keeps it."""

    def __init__(self, message: str, receipts: list[Receipt], retries: list[Draft]) -> None:
        super().__init__(message)
        self.receipts, self.retries, self.unknown = receipts, retries, len(retries)


class Taker(Protocol):
    """Takes drafts to where they are recorded: a broker, or an outbox before one."""

    def publish(self, drafts: Sequence[Draft]) -> list[Receipt]: ...


class Publisher:
    """The three broadcasts over any broker, each one checked payload and one round trip.

    Keyword options of each: `priority` 0-10 (5; from 9 on past the throttle), `also_to` (at most 15 more rooms:
    `agent:x`, `task:x`, `project:x`), `key` (published once however often it is sent within the result TTL),
    `critical` (delivered until acknowledged).  All raise PayloadError, with the fields by name, and
    BrokerUnavailable when the broker was not reached in time.
    """

    def __init__(self, broker: Taker, *, max_event: int = schemas.DEFAULT_MAX_EVENT,
                 clock: Callable[[], float] = time.time) -> None:
        self._broker, self._max_event, self._clock = broker, max_event, clock

    def _now(self) -> dict[str, Any]:
        return {"now_ms": int(self._clock() * 1000), "max_bytes": self._max_event}

    def thought(self, thought: Mapping[str, Any], **options: Any) -> Draft:
        """The checked draft of a thought, for `publish_many`."""
        return schemas.thought_draft(thought, **self._now(), **options)

    def task(self, update: Mapping[str, Any], **options: Any) -> Draft:
        """The checked draft of a task update, for `publish_many`."""
        return schemas.task_draft(update, **self._now(), **options)

    def project(self, project_id: object, event: str, data: object = None, **options: Any) -> Draft:
        """The checked draft of a project event, for `publish_many`."""
        return schemas.project_draft(project_id, event, data, **self._now(), **options)

    def publish(self, draft: Draft) -> Receipt:
        """Publish one checked draft.  What an owner with an outbox overrides."""
        return self._broker.publish([draft])[0]

    def broadcast_agent_thought(self, thought: Mapping[str, Any], **options: Any) -> Receipt:
        """`{agentId, thought, timestamp?, taskId?, projectId?, thoughtId?, delta?, ...}` to `agent:{agentId}`."""
        return self.publish(self.thought(thought, **options))

    def broadcast_task_update(self, update: Mapping[str, Any], **options: Any) -> Receipt:
        """`{taskId, status, progress?, message?, timestamp?, ...}` to `task:{taskId}`."""
        return self.publish(self.task(update, **options))

    def broadcast_project_event(self, project_id: object, event: str, data: object = None,
                                **options: Any) -> Receipt:
        """`data` (any JSON) under the name `event` to `project:{project_id}`."""
        return self.publish(self.project(project_id, event, data, **options))

    def draft(self, call: Call) -> Draft:
        """A draft as it is, or the one of a tuple: `("agent-thought", {...})`, `("task-update", {...})`,
        `("project-event", project_id, event, data)`, each with an optional dict of options at the end."""
        if isinstance(call, Draft):
            return call
        verb, *arguments = call
        verbs: dict[object, tuple[Callable[..., Draft], int]] = {
            THOUGHT: (self.thought, 1), TASK_UPDATE: (self.task, 1), "project-event": (self.project, 3)}
        if verb not in verbs:
            problem = f"{verb!r} is none of {', '.join(map(str, verbs))}"
            raise PayloadError(problem, {"call": [problem]})
        make, count = verbs[verb]
        if len(arguments) not in (count, count + 1):
            problem = f"{verb} takes {count} arguments and options, got {len(arguments)}"
            raise PayloadError(problem, {"call": [problem]})
        options = arguments[count] if len(arguments) > count else {}
        return make(*arguments[:count], **options)

    def publish_many(self, calls: Iterable[Call]) -> list[Receipt]:
        """Publish in order, in pipelines of at most 500; `calls` may be a generator.  See `draft` for the shapes.

        A wrong call raises PayloadError when it is reached: earlier full pipelines are then already published.
        Raises PublishInterrupted (a BrokerUnavailable) with what is known when Redis is lost.
        """
        receipts: list[Receipt] = []
        for chunk in _chunks(map(self.draft, calls)):
            try:
                receipts += self._broker.publish(chunk)
            except BrokerUnavailable as error:
                retries = [replace(draft, retry=True) for draft in chunk]
                raise PublishInterrupted(str(error), receipts, retries) from error
        return receipts


def _chunks(drafts: Iterable[Draft]) -> Iterator[list[Draft]]:
    chunk: list[Draft] = []
    size = 0
    for draft in drafts:
        if chunk and (len(chunk) >= CHUNK_DRAFTS or size + len(draft.body) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(draft)
        size += len(draft.body)
    if chunk:
        yield chunk


def broker_url(settings: Settings) -> str:
    """The Redis that publishers on this machine use: REDIS_URL, or the private Valkey of the server that runs on
    WEBSOCKET_PORT.  Raises SettingsError when there is neither."""
    if settings.redis_url:
        return settings.redis_url
    from wsapp.backends.embedded import find_embedded  # redis is loaded only when it is needed
    url = find_embedded(settings.websocket_port)
    if not url:
        raise SettingsError(f"REDIS_URL is not set and no wsapp server with a Redis of its own runs on port "
                            f"{settings.websocket_port}: set REDIS_URL, or WEBSOCKET_PORT to that server's port")
    return url


def open_from(settings: Settings, *, timeout: float | None = None) -> Backend:
    """The backend that publishers use.  Connects on first use; raises SettingsError as `broker_url` does."""
    from wsapp.backends import open_backend
    return open_backend(broker_url(settings), settings.limits, channel=settings.channel,
                        prefix=settings.key_prefix, timeout=timeout or settings.broker_timeout,
                        partitions=settings.partitions)


class Emitter(Publisher, Acknowledged):
    """Broadcasts from any process.  Safe to share between threads.

    `redis_url=None` means REDIS_URL, else the private Valkey of the server on WEBSOCKET_PORT.  `channel`, `prefix`
    and the history limits (`history_size`, `history_bytes`, `history_age`, `result_ttl`, `max_event`, ...: the
    lower-case fields of `Settings`) must be those of the server; unset, they come from the same environment.
    `timeout`, in seconds (0.25), bounds every call.  Opens no connection until the first publish.
    """

    def __init__(self, redis_url: str | None = None, *, channel: str | None = None, prefix: str | None = None,
                 timeout: float | None = None, clock: Callable[[], float] = time.time, **limits: Any) -> None:
        given = {"redis_url": redis_url, "channel": channel, "key_prefix": prefix, **limits}
        settings = load_settings(os.environ, given)
        self._backend = open_from(settings, timeout=timeout)
        self.critical_store = self._backend.critical
        super().__init__(self._backend.broker, max_event=settings.max_event, clock=clock)

    def watchers(self, room: str) -> Watching:
        """Whether anybody watches `agent:x`, `task:x` or `project:x` anywhere in the cluster, before it is worth
        publishing in detail: `if emitter.watchers("agent:coder"): ...`.  Raises PayloadError and BrokerUnavailable."""
        schemas.parse_room(room)
        return self._backend.presence.watchers(room)

    def close(self) -> None:
        """Close the connections.  Idempotent."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
