"""SocketServer: the composition root.  It alone sees every ring, puts the parts together, starts and drains them."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from flask import Flask

from wsapp import __version__
from wsapp.auth import open_authenticator
from wsapp.backends import open_backend
from wsapp.blueprints.mounting import mount, mount_page
from wsapp.blueprints.sessions import sessions
from wsapp.blueprints.subscriptions import subscriptions
from wsapp.core.connections import Connection, ConnectionManager
from wsapp.core.critical import Acknowledged
from wsapp.core.events import Draft, packet
from wsapp.core.ledger import Ledger
from wsapp.core.limited_log import ONCE_A_MINUTE, LimitedLog
from wsapp.core.link import LinkState
from wsapp.core.partitions import room_in
from wsapp.core.ports import Backend, Receipt, Watching
from wsapp.core.registry import Registry
from wsapp.core.throttle import EventThrottler
from wsapp.emitter import Call, Publisher
from wsapp.errors import BrokerUnavailable, Incompatible
from wsapp.metrics import Metrics
from wsapp.runtime.addresses import Addresses
from wsapp.runtime.admission import TICK, Admission
from wsapp.runtime.announcement import announce
from wsapp.runtime.canary import ROOM as CANARY_ROOM
from wsapp.runtime.critical import CriticalDelivery
from wsapp.runtime.delivery import Delivery
from wsapp.runtime.dispatch import Dispatch, close_all
from wsapp.runtime.drain import VERB, Drain
from wsapp.runtime.event_blueprint import Event, EventBlueprint
from wsapp.runtime.fanout import Fanout
from wsapp.runtime.figures import Figures
from wsapp.runtime.greenlets import Greenlets, on_the_hub
from wsapp.runtime.hosting import Hosted
from wsapp.runtime.hub import Hub
from wsapp.runtime.inbound import Inbound
from wsapp.runtime.lifecycle import Lifecycle
from wsapp.runtime.link import Links
from wsapp.runtime.manager import ClusterManager, StrictJson
from wsapp.runtime.outlets import Outlets
from wsapp.runtime.partitioned_watch import PartitionedWatch
from wsapp.runtime.presence import PresenceKeeper
from wsapp.runtime.server_api import ServerApi
from wsapp.runtime.watch import Watch
from wsapp.schemas import parse_room
from wsapp.settings import Settings, load_settings
from wsapp.stock.options import split_options
from wsapp.stock.running import Runner
from wsapp.stock.served import Served
from wsapp.stock.unstarted import StartedFirst
from wsapp.transport.deflate import squeezer
from wsapp.transport.engine import Engine, EngineOptions, Hooks
from wsapp.transport.frames import Frame
from wsapp.transport.gate import Gate, GateOptions
from wsapp.transport.guest import GuestOptions
from wsapp.transport.hosts.route import Listening, Routes
from wsapp.transport.live_reading import read_in_hub
from wsapp.transport.mount import Mounted
from wsapp.transport.origins import Origins

log = logging.getLogger(__name__)

FIRST_MESSAGE = 65_536  # bytes until a client is let in: its token ...
ROOM_POSITION = 400  # ... and as many for the position in each room that it comes back to
PUBLISH_PATIENCE = 0.03  # seconds a publish waits for Redis before it goes to the outbox
IDLE_CHECK = 0.5  # seconds between looks for transports that join nothing
VACANCY_CHECK = 1.0  # seconds between looks for rooms that nobody is in any more
LEASE_BEATS = 3.0  # a lease outlives this many beats


class Broadcasts:
    """The broadcasts of a server, checked, and over its outbox."""

    _publisher: Publisher

    def broadcast_agent_thought(self, thought: Mapping[str, Any], **options: Any) -> Receipt:
        """`{agentId, thought, timestamp?, taskId?, projectId?, ...}` to `agent:{agentId}`, on every worker.

        Options: `priority` 0-10, `also_to`, `key`, `critical` (see `wsapp.emitter.Publisher`).  Raises PayloadError.
        While Redis is away this worker's clients are served at once and the receipt says `queued` or `local_only`.
        """
        return self._publisher.broadcast_agent_thought(thought, **options)

    def broadcast_task_update(self, update: Mapping[str, Any], **options: Any) -> Receipt:
        """`{taskId, status, progress?, message?, timestamp?, ...}` to `task:{taskId}`; otherwise as above."""
        return self._publisher.broadcast_task_update(update, **options)

    def broadcast_project_event(self, project_id: object, event: str, data: object = None,
                                **options: Any) -> Receipt:
        """`data` (any JSON) under the name `event` to `project:{project_id}`; otherwise as above."""
        return self._publisher.broadcast_project_event(project_id, event, data, **options)

    def draft(self, call: Call) -> Draft:
        """Check one call of `publish_many` without publishing it.  Raises PayloadError."""
        return self._publisher.draft(call)

    def publish_many(self, calls: Iterable[Call]) -> list[Receipt]:
        """Several broadcasts in order: `("agent-thought", {...})`, `("task-update", {...})`, `("project-event",
        project_id, event, data)`, each with an optional dict of options at the end, or drafts; otherwise as above."""
        return self._publisher.publish_many(calls)


class SocketServer(Broadcasts, Hosted, Served, Acknowledged):
    """The real-time server, as a Flask extension.

        server = SocketServer(app)            # or SocketServer() and server.init_app(app)

    Settings come from keyword arguments (names in lower case), `app.config` and the environment, in this order.
    Flask-SocketIO's options are keyword arguments, too (see `wsapp.stock.options`).
    `server.socketio` is the Flask-SocketIO object, before and after `init_app`.  Served by gunicorn with
    `worker_class = "wsapp.transport.worker.Worker"`.
    """

    def __init__(self, app: Flask | None = None, **settings: Any) -> None:
        super().__init__()
        self._given = settings
        self._blueprints: list[EventBlueprint] = [subscriptions, sessions]
        self.events: dict[str, Event] = {}
        self._greenlets = Greenlets()
        self._unready = LimitedLog(log, rate=ONCE_A_MINUTE, burst=1)
        self._started = False
        self._app: Flask | None = None
        if app is not None:
            self.init_app(app)

    # -- putting together

    def init_app(self, app: Flask, **settings: Any) -> None:
        """Attach to a Flask app; connects to nothing yet.  Raises SettingsError, and RuntimeError when gunicorn runs
        with another worker class than ours or when called twice."""
        if self._app is not None:
            raise RuntimeError("this SocketServer has an app already: make one SocketServer per app")
        _require_our_worker()
        arguments, self._stock_options = split_options({**self._given, **settings})
        self.settings = load_settings(os.environ, {**app.config, **arguments})
        self.path_prefix = self.settings.socket_path
        self._app, self.request_timeout = app, self.settings.request_timeout
        self.drain_timeout = self.settings.drain_timeout
        self._compose(self.settings)
        self.guests = _guests(self.settings, self.engine)
        app.extensions["wsapp"] = self
        for blueprint in self._blueprints:
            self._register(blueprint)
        mount(app, self.settings.prefix)
        started = StartedFirst(app.wsgi_app, self.start, lambda: self._started, self.path_prefix)
        app.wsgi_app = Mounted(started, os.environ.get("SCRIPT_NAME", ""),  # type: ignore[method-assign]
                               self.settings.trusted_proxies)
        self._serve_with_flask(Runner(app, self.settings, self.socketio.sockio_mw))
        from wsapp.transport.worker import register  # gunicorn is needed only where something is served
        register(self)

    initialize = init_app

    def _compose(self, settings: Settings) -> None:
        self._backend = open_backend(settings.redis_url, settings.limits, channel=settings.channel,
                                     prefix=settings.key_prefix, timeout=settings.broker_timeout,
                                     partitions=settings.partitions, reading=read_in_hub)
        self.store = "Redis" if self._backend.shared else "memory, one worker"
        self.metrics = Metrics()
        self._addresses = Addresses(self._backend.cluster, settings)
        self.request_timed_out = partial(self.metrics.count, "requestsTimedOut")
        self.count_forwarding = self.count_refusal = self.metrics.count
        self.max_connections, self.trusted_proxies = settings.max_connections, settings.trusted_proxies
        self.max_tls_handshakes = settings.max_tls_handshakes_per_sec
        self.tls_handshake_refused = partial(self.metrics.count, "tlsHandshakesRefused")
        self.write_timeout, self.dawdler_cut_off = settings.outbox_age, partial(self.metrics.count, "answersUnread")
        self.throttler = EventThrottler(settings.max_events_per_sec, settings.flush_interval,
                                        max_items=settings.queue_items, max_bytes=settings.queue_bytes)
        self.connections = ConnectionManager(self._backend.sessions, Registry(), self.throttler,
                                             active_within=settings.active_within, stale_after=settings.stale_after)
        self.ledger = Ledger() if settings.ledger else None
        if self.ledger is not None:
            self._hooks["disconnect"].append(self.ledger.left_by)
        admission = Admission(settings, open_authenticator(settings), self._backend.revocations, self.connections,
                              self.metrics, self._host)
        self.critical_store = self._backend.critical
        self._critical = CriticalDelivery(self.critical_store, settings.retry_policy, self.connections, self.metrics,
                                          lambda session, room: admission.allows(session, "read", room), self.ledger)
        partitions = len(self._backend.parts) or 1
        self._fanout = Fanout(self.connections, self.metrics, self._critical, self.ledger,
                              squeezer(settings.deflate_threshold, settings.deflate_level), partitions=partitions)
        self._links = Links(self._report_mode, partitions)
        self._delivery = Delivery(self.connections.registry, self._fanout, self._backend.broker, self.metrics,
                                  self._links, max_replay=settings.max_replay)
        self._delivery.pace = settings.pace
        self._lifecycle = Lifecycle(self.connections, self._delivery, self._links)
        hasty = self._backend.hasty(PUBLISH_PATIENCE)
        self._outlet = Outlets(hasty.publish, self._backend.parts or [self._backend], self._links, self.metrics,
                               self._fanout.serve_unrecorded)
        self._watch = (PartitionedWatch if self._backend.parts else Watch)(
            settings, self._backend, self._delivery, self.connections, self._links)
        self._watch.warm = partial(hasty.heads, _one_in_each(self._backend))
        self._publisher = Publisher(self._outlet, max_event=settings.max_event)
        self.hub = Hub(settings, self._backend, self.connections, self.throttler, self._delivery, self._lifecycle,
                       self.metrics, self._identify, self._hooks, self._critical, admission,
                       Inbound(settings.max_inbound_per_sec, settings.max_inbound_per_user),
                       PresenceKeeper(self._backend.presence, self.connections, self._links), lambda: self.mode)
        self.api = ServerApi(settings, self._backend, self.connections, self.hub.presence)
        self._attach_socketio(settings)
        self.figures = Figures(self._backend, self.connections, self._outlet, self._links, self._watch, self.metrics,
                               self.api.calls, lambda: self.engine.draining, __version__)

    def _attach_socketio(self, settings: Settings) -> None:
        self._manager = ClusterManager(settings.channel)
        self._manager.members, self._manager.left = self._members, self._left
        self.socketio.init_app(self._app, client_manager=self._manager, async_mode="gevent", cors_allowed_origins=[],
                               monitor_clients=False, json=StrictJson, path=settings.socket_path.strip("/"),
                               **self._stock_options)
        sio = self.socketio.server
        self._dispatch = Dispatch(self.hub, sio, self.events)
        self._manager.roomed = self._dispatch.roomed
        hooks = Hooks(self._opened, self._dispatch.read, self._dispatch.handle, self._closed, self.metrics.count)
        self.engine = sio.eio = Engine(_engine_options(settings), _origins(settings), hooks, _gate(self.hub))
        self._drain = Drain(settings, self._lifecycle, self.engine,
                            lambda: close_all(list(self.engine.sockets.values())))
        self.api.calls.offer(VERB, self._drain.answer)

    def _members(self, name: str) -> list[tuple[str, str]]:
        room = self.connections.registry.rooms.get(name)
        return [(session.sid, session.peer.sid) for session in room.members] if room is not None else []

    def _left(self, sid: str) -> None:
        session = self.connections.session(sid)
        connection = self.engine.sockets.get(session.peer.sid) if session is not None else None
        if connection is not None and connection.viewer is session:
            self.socketio.server.start_background_task(self._dispatch.left, connection)

    def _opened(self, connection: Any, environ: dict[str, Any]) -> None:
        self.socketio.server._handle_eio_connect(connection.sid, slim(environ))

    def _closed(self, connection: Any, reason: str) -> None:
        # From the hub: saving may wait for Redis, so it gets a greenlet of its own.
        self.socketio.server.start_background_task(self._dispatch.closed, connection, reason)

    def _register(self, blueprint: EventBlueprint) -> None:
        assert self._app is not None
        self.events.update(blueprint.events)
        self._app.register_blueprint(blueprint)

    def register_blueprint(self, blueprint: EventBlueprint) -> None:
        """Add a feature of the host application: socket events and routes; before or after `init_app`."""
        if self._app is None:
            self._blueprints.append(blueprint)
        else:
            self._register(blueprint)

    # -- running

    @property
    def token(self) -> str:
        """Names this worker in every sid."""
        return self.engine.token

    @property
    def routes(self) -> Routes | None:
        """Where the workers of other hosts are; None when no other host can share this server's sessions."""
        return self._addresses if self._backend.shared and self._addresses.active else None

    def start(self, listening: Listening = Listening()) -> None:  # noqa: B008  # it is immutable
        """Begin to work in this process: called by the worker before it accepts, after any fork.  Other hosts reach
        the server where it is `listening`.  Raises SettingsError when a route of the application has the path of one
        of ours."""
        if self._started:
            return
        assert self._app is not None
        require_compatible(self._backend)
        self._started = True
        self._addresses.start(listening)
        self.engine.renew_token()
        self.connections.boot = self.token
        self.api.start(self.token)
        self._page = mount_page(self._app, self.settings.prefix)
        self.socketio.server.manager_initialized = True
        self._greenlets.adopt(self._manager.start(self._backend.bus, self._links))
        self._backend.start(self.token, on_the_hub(self._delivery.on_record), on_the_hub(self._on_gap),
                            on_the_hub(self._manager.on_bus), on_the_hub(self._on_control))
        self.engine.start()
        run, every = self._greenlets.run, self._greenlets.every
        run("outbox", self._outlet.run)
        run("fan-out", self._fanout.run)
        run("throttle", self._fanout.flusher.run)
        run("session saving", self._lifecycle.save_forever)
        self._critical.start(run)
        run("presence", self.hub.presence.run)
        every("stale sweep", self.settings.sweep_interval, self.connections.cleanup_stale_connections)
        every("vacancy check", VACANCY_CHECK, self._delivery.close_vacant)
        every("tokens", TICK, self.hub.admission.tick)
        every("idle check", IDLE_CHECK, lambda: self._dispatch.close_unjoined(self.engine))
        every("lease", self.settings.heartbeat, self._beat)
        self._beat()
        self._watch.start(self.token, self._greenlets)

    def announce(self, addresses: list[Any], scheme: str) -> None:
        """Log where the page is, and that anybody may watch if nobody has decided it; `addresses` of our sockets."""
        page = os.environ.get("SCRIPT_NAME", "").rstrip("/") + self._page
        announce(self.settings, self._host.identify is not None, page, addresses, scheme)

    def _on_gap(self) -> None:
        self._delivery.on_gap()
        self.hub.admission.on_gap()

    def _on_control(self, message: bytes) -> None:
        verb, _, argument = message.decode(errors="replace").partition(" ")
        if verb == "fenced":
            self._lifecycle.fenced(argument)
        elif verb == "revoked":
            self.hub.admission.on_control(argument)
        else:
            self.api.on_control(verb, argument)

    def _beat(self) -> None:
        try:
            self._backend.cluster.beat(self.token, {**self.figures.own(), **self._addresses.fact()},
                                       self.settings.heartbeat * LEASE_BEATS)
            self._addresses.renew()
            self.hub.presence.beat(self.settings.heartbeat * LEASE_BEATS)
        except BrokerUnavailable as error:
            self._links.lost(error)
        trouble = self.not_ready()
        if trouble is not None and not self.draining:  # of a drain the clients are told in the log that it refuses
            self._unready.warning("", "not ready: %s", trouble)

    @property
    def mode(self) -> str:
        """`normal`, `degraded` (Redis is away) or `catching_up` (the outbox is being flushed)."""
        return str(self._links.state)

    def _report_mode(self, state: LinkState) -> None:
        if state is not LinkState.DOWN:
            self._lifecycle.save_soon()
        frame = Frame(packet("mode", {"mode": str(state)}))
        for session in self.connections.sessions():
            session.peer.push(frame)

    def connection_count(self) -> int:
        """Engine.IO connections of this worker, those that have not yet joined a namespace included."""
        return len(self.engine.sockets)

    @property
    def draining(self) -> bool:
        """Whether this worker takes nobody in: it leaves, or an operator has drained it."""
        return self.engine.draining

    @property
    def polled(self) -> bool:
        """Whether a polling client is there, whose next request may be a new connection."""
        return self.engine.polled

    def not_ready(self) -> str | None:
        """Why this worker should get no traffic now; None when it should."""
        if not self._started:
            return "starting"
        if self.draining:
            return "draining"
        return self._watch.trouble()

    def drain(self, timeout: float | None = None) -> None:
        """Take no more, tell every client when to come back, save every session, close each at its slot.  Returns
        within `timeout` seconds (WSAPP_DRAIN_TIMEOUT)."""
        if not self._started:
            return
        timeout = self.settings.drain_timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        self._drain.run(timeout)
        left = self._outlet.flush(deadline)
        self._critical.flush()
        if left:
            log.error("%d publications were never taken by Redis and are lost with this worker", left)

    def shutdown(self) -> None:
        """Stop everything in this process.  Connections that are left are closed.  Idempotent."""
        close_all(list(self.engine.sockets.values()))
        self._greenlets.stop()
        self.engine.shutdown()
        if self._started:
            self._started = False
            try:
                self._backend.cluster.leave(self.token)
            except BrokerUnavailable as error:
                log.info("the lease runs out by itself: %s", error)
        self._backend.close()

    # -- asking

    def watchers(self, room: str) -> Watching:
        """Whether anybody in the cluster watches `agent:x`, `task:x` or `project:x`: true or false, `connections`.
        Raises PayloadError and BrokerUnavailable."""
        parse_room(room)
        return self._backend.presence.watchers(room)

    def get_active_connections(self) -> list[Connection]:
        """Snapshots of the connections of this worker from which something came within five minutes."""
        taken = [self.connections.get_connection(session.sid) for session in self.connections.sessions()
                 if self.connections.is_connection_active(session.sid)]
        return [snapshot for snapshot in taken if snapshot is not None]

    def explain(self, session_id: str, id: str) -> dict[str, object]:
        """What became of the event `id` for a session of this worker: `{id, fate, room, seq, why}`; see
        `wsapp.core.ledger.Fate`.  Raises RuntimeError unless WSAPP_LEDGER is on."""
        if self.ledger is None:
            raise RuntimeError("no ledger is kept: set WSAPP_LEDGER=on")
        return self.ledger.explain(session_id, id)

    def get_metrics(self) -> dict[str, Any]:
        """Counters since the start: `totalConnections`, `activeConnections`, `peakConnections`, `messagesSent`,
        `messagesReceived`, `averageLatency` (ms from publish to socket) and more.

        At the top level and under `worker` for this worker, under `cluster` summed over all (None when Redis is
        away); the others' numbers are as old as their last beat.
        """
        return self.figures.everywhere()


def _one_in_each(backend: Backend) -> list[str]:
    """A room of each partition, in which nothing is ever published."""
    count = len(backend.parts) or 1
    return [room_in(f"{CANARY_ROOM}nobody", number, count) for number in range(count)]


def require_compatible(backend: Backend) -> None:
    """Raises Incompatible when Redis is there, and its rooms are divided otherwise than here or its data have a format
    that this release does not read."""
    try:
        backend.ping()
    except Incompatible:
        raise
    except BrokerUnavailable as error:
        log.warning("whether the data in Redis fit is seen when Redis is there: %s", error)


def _engine_options(settings: Settings) -> EngineOptions:
    return EngineOptions(
        ping_interval=settings.ping_interval, ping_timeout=settings.ping_timeout, max_message=settings.max_message,
        first_message=max(FIRST_MESSAGE, ROOM_POSITION * settings.max_rooms), inbox_bytes=settings.inbox_bytes,
        outbox_bytes=settings.outbox_bytes, outbox_age=settings.outbox_age, deflate=settings.deflate,
        deflate_threshold=settings.deflate_threshold, deflate_level=settings.deflate_level,
        transports=settings.transports, upgrades=settings.allow_upgrades and "websocket" in settings.transports)


def _origins(settings: Settings) -> Origins:
    return Origins(settings.websocket_cors_origin, settings.allowed_hosts, settings.trusted_proxies)


def _guests(settings: Settings, engine: Engine) -> GuestOptions:
    options = GuestOptions(settings.host_max_message, settings.outbox_age, settings.deflate, settings.deflate_level)
    return replace(options, judge=engine.turnstile.judge) if settings.host_origin_check else options


def _gate(hub: Hub) -> Gate:
    settings = hub.settings
    options = GateOptions(settings.max_connections, settings.max_connections_per_address,
                          settings.max_handshakes_per_sec, settings.trusted_proxies)
    return Gate(options, hub.admission.judge_handshake, hub.metrics.count)


def _require_our_worker() -> None:
    if os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn") and "wsapp.transport.worker" not in sys.modules:
        raise RuntimeError("gunicorn must run with worker_class = 'wsapp.transport.worker.Worker' "
                           "(gunicorn -c gunicorn.conf.py module:app): other workers break WebSocket upgrades")


_DROPPED = frozenset({"wsapp.handler", "wsgi.input", "wsgi.errors", "wsgi.file_wrapper", "gunicorn.socket",
                      "gunicorn.sock", "wsgi.input_terminated"})


# Not `sys.intern`: what clients make up would stay for ever (Python 3.12.0 to 3.12.5 never free an interned string).
_shared: dict[str, str] = {}
MOST_SHARED = 4096


def slim(environ: Mapping[str, Any]) -> dict[str, Any]:
    """What of a handshake's environ is kept as long as its connection: no streams, names and short values shared."""
    return {share(name): share(value) if type(value) is str and len(value) < 200 else value
            for name, value in environ.items() if name not in _DROPPED}


def share(text: str) -> str:
    """An equal string that others have too: of the first `MOST_SHARED` ones."""
    known = _shared.get(text)
    if known is not None:
        return known
    if len(_shared) < MOST_SHARED:
        _shared[text] = text
    return text
