"""What a client says, handed to who knows: CONNECT, our events, the host application's events, acknowledgements.

It sits between the Engine.IO connection and python-socketio.  wsapp's own events are handled on the spot, in order,
without a Flask request context; everything else goes the stock way.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final

from socketio.exceptions import ConnectionRefusedError as Refusal

from wsapp.core.events import RESERVED_EVENTS, dumps_spliced, strict_dumps
from wsapp.core.events import packet as event_packet
from wsapp.core.packets import BadPacket, Kind, Packet, ReservedName, decode
from wsapp.core.session import Session
from wsapp.errors import CloseCode, ErrorCode, PayloadError, RequestError, WsappError
from wsapp.runtime.event_blueprint import Call, Event
from wsapp.runtime.hub import Hub
from wsapp.runtime.inbound import Verdict
from wsapp.transport.connection import Connection, let_in
from wsapp.transport.engine import Engine
from wsapp.transport.frames import Frame
from wsapp.transport.polling import PacketError

log = logging.getLogger(__name__)

ROOT: Final = "/"
ROOT_ONLY: Final = (ROOT,)  # one tuple for everybody
EMITTED: Final = re.compile(rb"4[25](?:\d+-)?(?:(/[^,]*),)?")


class Dispatch:
    """One per server.  `sio` is python-socketio's server, `handlers` our events by name."""

    def __init__(self, hub: Hub, sio: Any, handlers: Mapping[str, Event]) -> None:
        self.hub, self._sio, self._handlers = hub, sio, handlers

    # -- the engine's hooks

    def read(self, connection: Connection, payload: str | bytes) -> Packet | ReservedName | None:
        """Decode a message; None while attachments are to come.  Raises PacketError on what ends a connection."""
        try:
            return self._assembled(connection, payload)
        except ReservedName as error:
            if error.ack_id is None or ROOT not in connection.asked:
                raise PacketError(str(error)) from error
            return error
        except BadPacket as error:
            raise PacketError(str(error)) from error

    def handle(self, connection: Connection, packet: Packet | ReservedName) -> None:
        """A message of a client, in order."""
        self.hub.metrics.received += 1
        self.hub.connections.touch(self._sid(connection) or "")
        viewer = connection.viewer
        verdict = self.hub.inbound.admit(connection.sid, viewer.user_id if isinstance(viewer, Session) else None,
                                         packet.size if isinstance(packet, Packet) else 0)
        if verdict is not Verdict.TAKE:
            self._overrun(connection, packet, verdict)
            return
        if isinstance(packet, ReservedName):
            assert packet.ack_id is not None
            self._ack(connection, ROOT, packet.ack_id, _failed(RequestError(ErrorCode.RESERVED_EVENT, str(packet))))
            return
        try:
            self._route(connection, packet)
        except BadPacket as error:
            raise PacketError(str(error)) from error

    def _overrun(self, connection: Connection, packet: Packet | ReservedName, verdict: Verdict) -> None:
        """A packet over the limit is not handled; who waits for an answer is told."""
        self.hub.metrics.count("inboundRefused")
        if verdict is Verdict.CLOSE:
            self.hub.metrics.count("floodsClosed")
            connection.close(CloseCode.POLICY, "far more packets than WSAPP_MAX_INBOUND_PER_SEC")
        elif isinstance(packet, Packet) and packet.id is not None and packet.kind in (Kind.EVENT, Kind.BINARY_EVENT):
            self._ack(connection, packet.namespace, packet.id, _failed(RequestError(
                ErrorCode.RATE_LIMITED, "too many events (WSAPP_MAX_INBOUND_PER_SEC)")))

    def _assembled(self, connection: Connection, item: str | bytes) -> Packet | None:
        waiting: Packet | None = connection.attachments
        if waiting is not None:
            if not isinstance(item, bytes):
                raise BadPacket("an attachment is missing")
            if sum(map(len, waiting.attachments)) + len(item) > self.hub.settings.max_message:
                raise BadPacket(f"a packet's attachments may have {self.hub.settings.max_message} bytes together")
            if not waiting.attach(item):
                return None
            connection.attachments = None
            return waiting
        if isinstance(item, bytes):
            raise BadPacket("an attachment without its packet")
        packet = decode(item)
        _require_turn(connection, packet)
        if packet.missing:
            connection.attachments = packet
            return None
        return packet

    def _route(self, connection: Connection, packet: Packet) -> None:
        if packet.kind is Kind.CONNECT:
            self._connect(connection, packet)
        elif (sid := self._sio.manager.sid_from_eio_sid(connection.sid, packet.namespace)) is None:
            raise BadPacket(f"not connected to {packet.namespace}")
        elif packet.kind is Kind.DISCONNECT:
            self._sio._handle_disconnect(connection.sid, packet.namespace, self._sio.reason.CLIENT_DISCONNECT)
            if packet.namespace == ROOT:
                self.left(connection)
            else:
                self.hub.admission.left(sid)
            connection.engine.gate.parted(connection.sid, self._sio.environ.get(connection.sid, {}))
        elif packet.kind in (Kind.ACK, Kind.BINARY_ACK):
            self._sio._handle_ack(connection.sid, packet.namespace, packet.id, packet.data)
        else:
            self._event(connection, packet)

    def closed(self, connection: Connection, reason: str) -> None:
        """A connection has ended, for whatever reason.  Namespaces that the client had left before, with a packet that
        still waits for its turn, were left by the client."""
        self.hub.inbound.forget(connection.sid)
        self.hub.admission.connection_closed(connection.sid)
        for name in [name for name in self._sio.manager.get_namespaces() if name not in connection.asked]:
            self._sio._handle_disconnect(connection.sid, name, self._sio.reason.CLIENT_DISCONNECT)
        self._sio._handle_eio_disconnect(connection.sid, reason)
        self.left(connection)

    def left(self, connection: Connection) -> None:
        """The session of a connection ends, whether or not the connection does."""
        viewer, connection.viewer = connection.viewer, None
        if not isinstance(viewer, Session):
            return
        self.hub.admission.left(viewer.sid)
        session = self.hub.lifecycle.goodbye(viewer.sid)
        if session is not None:
            self.hub.run_hooks("disconnect", session)

    def roomed(self, sid: str, there: bool) -> None:
        """A client is in rooms of the host application, or in none any more.  What a disconnect handler leaves was lost
        with the connection."""
        session = self.hub.connections.session(sid)
        if session is not None and (there or not getattr(session.peer, "closed", False)):
            self._mark(session, "rooms", there)

    def session_changed(self, sid: str, namespace: str) -> None:
        """A handler of the host application has put something into the socket session of a client."""
        manager = self._sio.manager
        root = manager.sid_from_eio_sid(manager.eio_sid_from_sid(sid, namespace), ROOT)
        session = self.hub.connections.session(root) if root is not None else None
        if session is not None:
            self._mark(session, "session", True)

    def _mark(self, session: Session, kind: str, there: bool) -> None:
        if session.has_host_state(kind, there):
            self.hub.lifecycle.save_marked()

    def close_unjoined(self, engine: Engine) -> None:
        """Close transports that were opened a while ago and have joined no namespace: refused ones, and idle ones."""
        manager = self._sio.manager
        for sid in engine.gate.unsettled(self.hub.settings.connect_timeout):
            joined = any(manager.sid_from_eio_sid(sid, name) for name in list(manager.get_namespaces()))
            connection = engine.sockets.get(sid)
            if joined or connection is None:
                engine.gate.settled(sid)
            elif not connection.closed:
                self.hub.metrics.count("idleClosed")
                connection.close(CloseCode.POLICY, "no namespace was joined in time (WSAPP_CONNECT_TIMEOUT)")

    # -- CONNECT

    def _connect(self, connection: Connection, packet: Packet) -> None:
        if packet.namespace != ROOT:
            self._connect_elsewhere(connection, packet)
            return
        sid = self._sio.manager.pre_connect(connection.sid, ROOT)
        if sid is None:
            raise BadPacket("already connected")
        connection.hold()
        try:
            welcome = self._admit(connection, sid, packet.data)
        except (Refusal, ConnectionRefusedError) as error:
            told = getattr(error, "error_args", None) or {"message": str(error) or "Connection refused by server"}
            self._turn_away(connection, ROOT, sid, told)
            return
        except WsappError as error:
            self._turn_away(connection, ROOT, sid, {"message": str(error), "data": error.told()})
            return
        except Exception:
            log.exception("a connect handler failed; %s is turned away", sid)
            self._turn_away(connection, ROOT, sid, {"message": "the server failed to connect you"})
            return
        self._sio.manager.connect(sid, ROOT)
        let_in(connection)
        if connection.closed:  # it went while it was being admitted
            self.closed(connection, self._sio.reason.TRANSPORT_CLOSE)
            return
        session: Session = welcome.session
        if self.hub.settings.recovery:
            connection.release(_packet(b"40", ROOT, {"sid": sid, "pid": session.id}),
                               Frame(event_packet("session", welcome.told)))
        else:
            connection.release(_packet(b"40", ROOT, {"sid": sid}))
        if welcome.recovery is not None:
            welcome.recovery.release()
        self.hub.presence.returned(session, (
            room for room in welcome.watching if self.hub.admission.allows(session, "presence", room)))
        self.hub.critical.arrived(session, welcome.recovery.critical if welcome.recovery is not None else frozenset())

    def _connect_elsewhere(self, connection: Connection, packet: Packet) -> None:
        """CONNECT to a namespace of the host application: what its handler emits comes after the answer."""
        sio, name, auth = self._sio, packet.namespace, packet.data
        known = name in sio.handlers or name in sio.namespace_handlers or sio.namespaces == "*" or (
            name in sio.namespaces)
        if not known:
            _forget_asking(connection, name)
            connection.push(_packet(b"44", name, {"message": "Invalid namespace"}))
            return
        sid = sio.manager.pre_connect(connection.sid, name)
        if sid is None:
            raise BadPacket("already connected")
        connection.hold()
        told: object = {"message": "Connection refused by server"}
        environ = sio.environ.get(connection.sid, {})
        try:
            if name not in self.hub.settings.open_namespaces:
                self.hub.admission.admit_elsewhere(connection, sid, connection.viewer, auth, environ)
            welcome = self._greet(name, sid, environ, auth)
        except WsappError as error:
            welcome, told = False, {"message": str(error), "data": error.told()}
        except (Refusal, ConnectionRefusedError) as error:
            welcome, told = False, getattr(error, "error_args", None) or told
        except Exception:
            log.exception("a connect handler of %s failed; %s is turned away", name, sid)
            welcome, told = False, {"message": "the server failed to connect you"}
        if welcome is False:
            self.hub.admission.left(sid)
            self._turn_away(connection, name, sid, told)
            return
        sio.manager.connect(sid, name)
        let_in(connection)
        if connection.closed:  # it went while it was being admitted
            self.closed(connection, sio.reason.TRANSPORT_CLOSE)
            return
        connection.release(_packet(b"40", name, {"sid": sid}))

    def _greet(self, name: str, sid: str, environ: Any, auth: Any) -> Any:
        """Call the connect handler; an older one takes no `auth`."""
        try:
            return self._sio._trigger_event("connect", name, sid, environ, auth)
        except TypeError:
            if auth is not None:
                raise
            return self._sio._trigger_event("connect", name, sid, environ)

    def _admit(self, connection: Connection, sid: str, auth: Any) -> Any:
        environ = self._sio.environ.get(connection.sid, {})
        admission = self.hub.admission
        identity = admission.identify(auth, environ)
        if self._sio._trigger_event("connect", ROOT, sid, environ, auth) is False:
            raise Refusal("the connection was refused")
        hello = auth if self.hub.settings.recovery else _without_session(auth)
        welcome = self.hub.lifecycle.welcome(sid, connection, hello, identity.user_id, admission.may_read(identity))
        if self._sio.manager.has_own_rooms(sid):  # by its connect handler, before there was a session
            self._mark(welcome.session, "rooms", True)
        admission.admitted(welcome.session, identity)
        try:
            admission.confirm(identity, environ)
            self.hub.run_hooks("connect", welcome.session, environ, auth)
        except Exception:
            self.hub.connections.registry.leave_all(welcome.session)
            self.hub.connections.forget(sid)
            admission.left(sid)
            connection.viewer = None
            raise
        return welcome

    def _turn_away(self, connection: Connection, name: str, sid: str, told: object) -> None:
        """Answer a refused CONNECT.  With Flask-SocketIO's `always_connect` the client is connected, gets what the
        handler emitted, and is disconnected."""
        if self._sio.always_connect:
            connection.held = [*(connection.held or ()), _packet(b"41", name)]
            connection.release(_packet(b"40", name, {"sid": sid}))
        else:
            connection.held = _without(connection.held or [], name)
            connection.release(_packet(b"44", name, told))
        _forget_asking(connection, name)
        self._sio.manager.disconnect(sid, name, ignore_queue=True)

    # -- events

    def _event(self, connection: Connection, packet: Packet) -> None:
        handler = self._handlers.get(packet.data[0]) if packet.namespace == ROOT else None
        if handler is not None and isinstance(connection.viewer, Session):
            self._ours(connection, packet, handler, connection.viewer)
            return
        found, _ = self._sio._get_event_handler(packet.data[0], packet.namespace, ())
        spaced, _ = self._sio._get_namespace_handler(packet.namespace, ())
        if found is None and spaced is None and packet.id is not None:
            self._ack(connection, packet.namespace, packet.id, _failed(_unknown(packet.data[0])))
            return
        self._sio._handle_event(connection.sid, packet.namespace, packet.id, packet.data)

    def _ours(self, connection: Connection, packet: Packet, handler: Event, session: Session) -> None:
        session.received += 1
        call = Call(session, self.hub)
        try:
            if len(packet.data) > 2:
                raise RequestError(ErrorCode.BAD_REQUEST, f"{packet.data[0]} takes one argument")
            told = {"ok": True, **(handler(call, packet.data[1] if len(packet.data) == 2 else None) or {})}
        except WsappError as error:
            told = _failed(error)
        except Exception:
            log.exception("the handler of %s failed", packet.data[0])
            told = _failed(RequestError(ErrorCode.INTERNAL, f"{packet.data[0]} failed on the server; try again"))
        if packet.id is not None:
            self._ack(connection, packet.namespace, packet.id, told)
        for step in call.after:
            step()

    def _ack(self, connection: Connection, namespace: str, id: int, told: dict[str, object]) -> None:
        where = "" if namespace == ROOT else namespace + ","
        try:
            answer = b"[" + dumps_spliced(told) + b"]"
        except (PayloadError, UnicodeEncodeError):
            log.exception("an answer cannot be written")
            answer = strict_dumps([_failed(RequestError(ErrorCode.INTERNAL, "the answer is not JSON"))]).encode()
        connection.push(Frame(f"43{where}{id}".encode() + answer))
        if isinstance(connection.viewer, Session):
            self.hub.inbound.charge(connection.sid, connection.viewer.user_id, len(answer))

    def _sid(self, connection: Connection) -> str | None:
        viewer = connection.viewer
        return viewer.sid if isinstance(viewer, Session) else None


def _require_turn(connection: Connection, packet: Packet) -> None:
    """CONNECT comes first; judged on arrival, so that a POST which breaks the rule is told 400.  Raises BadPacket."""
    name, asked = packet.namespace, connection.asked
    if packet.kind is Kind.CONNECT:
        if name not in asked:
            connection.asked = ROOT_ONLY if not asked and name == ROOT else (*asked, name)
    elif name not in asked:
        raise BadPacket(f"not connected to {name}")
    elif packet.kind is Kind.DISCONNECT:
        _forget_asking(connection, name)


def _forget_asking(connection: Connection, name: str) -> None:
    connection.asked = tuple(other for other in connection.asked if other != name)


def _without(held: list[Frame], namespace: str) -> list[Frame]:
    """What was held, less what a connect handler emitted to the client that it then refused."""
    kept: list[Frame] = []
    dropping = False
    for frame in held:
        if not frame.binary:
            found = EMITTED.match(frame.payload)
            dropping = found is not None and (found.group(1) or b"/") == namespace.encode()
        if not dropping:
            kept.append(frame)
    return kept


def _without_session(auth: Any) -> Any:
    return {key: auth[key] for key in auth if key not in ("sessionId", "pid")} if isinstance(auth, dict) else auth


def _unknown(name: str) -> RequestError:
    if name in RESERVED_EVENTS:
        return RequestError(ErrorCode.RESERVED_EVENT, f"{name!r} is an event of the server")
    return RequestError(ErrorCode.UNKNOWN_EVENT, f"nobody here knows the event {name[:100]!r}")


def _packet(kind: bytes, namespace: str, data: object = None) -> Frame:
    where = b"" if namespace == ROOT else namespace.encode() + b","
    return Frame(kind + where + (b"" if data is None else strict_dumps(data).encode()))


def _failed(error: WsappError) -> dict[str, object]:
    return {"ok": False, "error": error.told()}


def close_all(connections: list[Connection]) -> None:
    """End what is left after a drain."""
    for connection in connections:
        connection.close(CloseCode.SERVICE_RESTART, "the server restarts")
