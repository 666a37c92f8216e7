"""How an MQTT connection begins and ends: CONNECT to CONNACK, takeover, DISCONNECT, will."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from dragoman.adapters.mqtt import (
    auto_subscribe,
    codes,
    enhanced,
    flights,
    intake,
    kept_filters,
    mapping,
    order,
    replays,
    subscribing,
)
from dragoman.adapters.mqtt.codes import Code, ProtocolError, return_code
from dragoman.adapters.mqtt.delivering import OwnFrames
from dragoman.adapters.mqtt.encoders import FORM_4, FORM_5, FORM_OWN, encode_connack
from dragoman.adapters.mqtt.packets import Connect, Disconnect, Packet
from dragoman.adapters.mqtt.phase import Phase
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.standing import NEVER_S
from dragoman.adapters.serving.certificates import Certificate
from dragoman.adapters.serving.credentials import Credentials
from dragoman.broker.identity import MESH_SELF, mesh_id
from dragoman.broker.principal import Principal
from dragoman.routing.names import check_agent, check_name
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.adapters.mqtt.standing import Standing
    from dragoman.broker.redirects import Redirect

HELD_MAX: Final = 64
"""Packets a client may send ahead while its password is checked; the socket is not read meanwhile: one feed."""

MCP_COMPONENT: Final = "MCP-COMPONENT-TYPE"
"""A user property by which clients and servers of MCP over MQTT say what they are."""


REFERENCE_OVERHEAD: Final = 16
"""The most that a CONNACK or DISCONNECT holds beside its server reference."""


def begin(session: MqttSession, packet: Connect) -> None:
    """CONNECT has come: check what can be checked at once, then ask who it is."""
    session.realm.traffic.connects += 1
    session.version = session.decoder.version
    session.form = FORM_5 if session.version == 5 else FORM_4
    session.connect = packet
    session.packet_max = packet.properties.maximum_packet_size or session.packet_max
    session.phase = Phase.CHECKING
    if _sent_elsewhere(session):
        return
    refusal = _unacceptable(session, packet)
    if refusal is not None:
        reject(session, *refusal)
        return
    if packet.properties.authentication_method is not None:
        _step(session, packet, enhanced.begin(session, packet.properties))
        return
    session.wire.hold(True)
    credentials = _credentials(session, packet)
    at_once = True

    def known(outcome: Principal | Refusal) -> None:
        _known(session, packet, outcome)
        error = session.decoder.error
        if not at_once and error is not None and session.phase is not Phase.CLOSED:
            session.fail(error)

    session.realm.authenticator.check(credentials, known)
    at_once = False


def _sent_elsewhere(session: MqttSession) -> bool:
    """Whether everybody who comes here is to go to another server, and so this client (§4.11)."""
    there = session.terms.redirect or session.realm.broker.redirects.current
    if there is None:
        return False
    session.realm.redirected_total += 1
    session.realm.say("mqtt client not taken in: %s", "it is sent elsewhere", session)
    _turn_away(session, direction(there), reference(session, there))
    return True


def direction(there: Redirect) -> int:
    """Whether a client is to come back some day."""
    return Code.SERVER_MOVED if there.permanent else Code.USE_ANOTHER_SERVER


def reference(session: MqttSession, there: Redirect) -> Properties | None:
    """Where to, unless the packet would then be larger than the client takes."""
    fits = len(there.to.encode()) + REFERENCE_OVERHEAD <= session.packet_max
    return Properties(server_reference=there.to) if fits else None


def _credentials(session: MqttSession, packet: Connect) -> Credentials:
    """What CONNECT says and what the listener makes of it."""
    listener = session.listener
    certificate = None
    if listener.client_certificates != "off" and listener.identity != "none":
        common = listener.identity == "cn"
        names = tuple(name for name in session.arrival.certificate if name.startswith("cn:") is common)
        if names or listener.client_certificates == "required":
            certificate = Certificate(names, listener.certificate_users == "any")
    anonymous = "" if listener.anonymous == "inherit" else listener.anonymous
    return Credentials(packet.username, packet.password, None, session.arrival.local, certificate, anonymous)


def _unacceptable(session: MqttSession, packet: Connect) -> tuple[int, str] | None:
    if not session.listener.speaks(session.version):
        return Code.UNSUPPORTED_PROTOCOL_VERSION, f"this listener takes MQTT {', '.join(session.listener.versions)}"
    will = packet.will
    if will is not None:
        unfit = intake.unfit(session.realm.settings, will.topic)
        if unfit is not None:
            return Code.TOPIC_NAME_INVALID, f"the will's topic: {unfit.detail}"
        refused = session.terms.refuses_will(will.qos, retain=will.retain)
        if refused is not None:
            return refused
    connects = session.realm.connects
    if connects is not None and connects.take(session.realm.core.monotonic_ms):
        return Code.CONNECTION_RATE_EXCEEDED, "more clients connect than mqtt.connects_per_s allows"
    if not packet.client_id and session.version < 5 and not packet.clean_start:
        return Code.CLIENT_IDENTIFIER_NOT_VALID, "an empty client id needs clean session 1 [3.1.1 3.1.3-8]"
    if not packet.client_id and session.version == 3:
        return Code.CLIENT_IDENTIFIER_NOT_VALID, "MQTT 3.1 needs a client id"
    if packet.client_id:
        problem = check_agent(packet.client_id)
        if problem is not None:
            return Code.CLIENT_IDENTIFIER_NOT_VALID, problem.detail
    return None


def hold(session: MqttSession, packet: Packet) -> None:
    """A packet that came while the client's credentials are being checked: taken up afterwards, or part of it."""
    if session.enhanced is not None:
        assert session.connect is not None, "CONNECT named the method"
        _step(session, session.connect, enhanced.take(session, session.enhanced, packet))
        return
    if len(session.early) >= HELD_MAX:
        reject(session, Code.QUOTA_EXCEEDED, f"more than {HELD_MAX} packets before the CONNACK")
        return
    session.early.append(packet)


def _step(session: MqttSession, packet: Connect, answer: enhanced.Answer) -> None:
    """An enhanced authentication has come to an end, unless ``answer`` is None."""
    if isinstance(answer, tuple):
        reject(session, *answer)
    elif answer is not None and packet.username not in (None, answer.name):
        reject(session, Code.NOT_AUTHORIZED, f"CONNECT says {packet.username!r}, it has proven to be {answer.name!r}")
    elif answer is not None:
        packet.username = answer.name
        _known(session, packet, answer)


def _known(session: MqttSession, packet: Connect, outcome: Principal | Refusal) -> None:
    """The authenticator has answered, perhaps later; the client may be gone by then."""
    if session.phase is not Phase.CHECKING:
        return
    if isinstance(outcome, Refusal):
        reject(session, mapping.code_for(codes.CONNACK, outcome.reason), outcome.detail)
        return
    if _sent_elsewhere(session):
        return
    session.principal = outcome
    client_id = packet.client_id or f"auto-{uuid.uuid4().hex}"
    # Before anything else is done for it: a banned client takes nobody over.
    refusal = session.realm.broker.bans.client(client_id) or _enter(session, packet, client_id)
    if refusal is not None:
        reject(session, mapping.code_for(codes.CONNACK, refusal.reason), refusal.detail)


def _enter(session: MqttSession, packet: Connect, client_id: str) -> Refusal | None:
    """Takes the client in: binding, takeover, session, CONNACK, in this order and in one turn (§3.1.4)."""
    realm = session.realm
    broker = realm.broker
    use_name = realm.settings.agents_from_username and packet.username
    session.agent = packet.username if use_name and packet.username else client_id
    standings = realm.standings
    known = standings.by_client.get(client_id)
    if known is None and standings.full:
        return Refusal(Reason.QUOTA_EXCEEDED, f"mqtt.sessions_max is {realm.settings.sessions_max}, all are in use")
    if known is not None and known.principal != session.principal.name and (known.connection or known.kept):
        return Refusal(Reason.AGENT_TAKEN, f"client id {client_id!r} belongs to another user")
    expiry_s = _expiry(session, packet)
    _agree(session, packet)
    properties = _connack(session, packet, client_id, expiry_s) if session.version == 5 else None
    if len(encode_connack(session.version, False, 0, properties)) > session.packet_max:
        return Refusal(Reason.TOO_LARGE, "the client takes no packet as large as its CONNACK [3.1.2-24]")
    if known is not None and known.backlog is not None and packet.clean_start:
        _discard(session, packet, known, kept_anew=expiry_s > 0)
        return None
    unfit = _rewrite_will(session, packet, client_id)
    if unfit is not None:
        return unfit
    number = broker.directory.arrive(session, session.agent, keeps=expiry_s > 0)
    if isinstance(number, Refusal):
        return number
    refusal = broker.attach(session)
    if refusal is not None:
        broker.directory.depart(session, clean=True, keeps=False)
        return refusal
    if known is not None and known.connection is not None:
        known.connection.taken_over(resumed=not packet.clean_start)
    standing, present = standings.open(client_id, session.principal.name, clean=packet.clean_start, expiry_s=expiry_s)
    session.standing = standing
    standing.agent = session.agent
    standing.connection = session
    standings.wills.begin(standing.key, client_id, packet.will, session.principal, session.agent)
    session.phase = Phase.OPEN
    session.decoder.admit()
    realm.traffic.entered()
    session.send(encode_connack(session.version, present, 0, properties))
    session.wire.accepted()
    _go(session, present)
    return None


def _rewrite_will(session: MqttSession, packet: Connect, client_id: str) -> Refusal | None:
    """A will's topic becomes what that of any publish would; the refusal, if it cannot."""
    rewrites = session.rewrites
    if packet.will is None or not rewrites.publishes:
        return None
    topic = rewrites.topic(packet.will.topic.decode(), client_id, session.principal.name)
    if isinstance(topic, Refusal):
        return topic
    refusal = check_name(topic)
    if refusal is None:
        packet.will.topic = topic.encode()
        refusal = intake.unfit(session.realm.settings, packet.will.topic)
    return refusal


def _discard(session: MqttSession, packet: Connect, known: Standing, *, kept_anew: bool) -> None:
    """A kept session goes because the client begins anew; when that is safe, the client is taken in.

    After the CONNACK it has forgotten its half. A crash must not bring ours back then: what it got once
    at QoS 2 would come again.
    """
    if known.connection is not None:
        known.connection.taken_over(resumed=False)

    authenticator = session.realm.authenticator
    users = authenticator.generation

    def safe(refusal: Refusal | None) -> None:
        # Whom a reload turns out it finds among the sessions, and this is none yet.
        changed = Refusal(Reason.NOT_AUTHENTICATED, "the users have changed meanwhile: log in anew")
        _known(session, packet, session.principal if authenticator.generation == users else changed)
        error = session.decoder.error
        if error is not None and session.phase is not Phase.CLOSED:
            session.fail(error)

    session.realm.broker.when_safe(session.realm.standings.end(known, kept_anew=kept_anew), safe)


def _go(session: MqttSession, present: bool) -> None:
    """After the CONNACK: what the session was owed, then what the client sent ahead."""
    session.wire.hold(False)
    if present:
        subscribing.restore(session)
        flights.begin_again(session)
        replays.resume(session)
    backlog = session.standing.backlog
    if backlog is not None:
        backlog.offer = session.offer
        backlog.reader = session
        order.attached(session)
        session.starved = True
    if not present:
        auto_subscribe.begin(session)
    session.realm.core.loop.call_soon(session.go_on)
    early, session.early = session.early, []
    for packet in early:
        session.take(packet)


def _expiry(session: MqttSession, packet: Connect) -> int:
    """Seconds the session outlives its connection, at most what we allow. 3.1.1: clean 0 means as long as we allow."""
    most = session.realm.settings.session_expiry_s_max
    if session.version < 5:
        return 0 if packet.clean_start else most
    asked = packet.properties.session_expiry_interval or 0
    return asked if most == NEVER_S else min(asked, most)


def _agree(session: MqttSession, packet: Connect) -> None:
    settings = session.settings
    asked = packet.properties
    keepalive_s = packet.keepalive
    most = settings.keepalive_s_max
    if session.version == 5 and most and (keepalive_s == 0 or keepalive_s > most):
        keepalive_s = most
    session.keepalive_ms = keepalive_s * 1500
    if session.version == 5:
        session.inflight_max = min(settings.inflight_max, asked.receive_maximum or 65_535)
        session.out_form = FORM_5
        given = min(settings.topic_alias_broker_max, asked.topic_alias_maximum or 0)
        link = MESH_SELF in dict(asked.user_properties)
        if given or link:
            session.out_form = FORM_OWN
            session.own_frames = OwnFrames(given, mesh_id(session.realm.broker.log) if link else "")


def _connack(session: MqttSession, packet: Connect, client_id: str, expiry_s: int) -> Properties:
    """What CONNACK says of us, without what was merely asked for where that is too much [3.2.2-20]."""
    settings = session.settings
    asked = packet.properties
    keepalive_s = session.keepalive_ms // 1500
    broker = session.realm.broker
    shown = session.enhanced
    said = Properties(
        session_expiry_interval=expiry_s if expiry_s != (asked.session_expiry_interval or 0) else None,
        receive_maximum=settings.receive_max,
        maximum_packet_size=settings.packet_bytes_max,
        topic_alias_maximum=settings.topic_alias_max or None,
        assigned_client_identifier=None if packet.client_id else client_id,
        server_keep_alive=keepalive_s if keepalive_s != packet.keepalive else None,
        authentication_method=shown.method if shown is not None else None,
        authentication_data=shown.data if shown is not None else None,
    )
    # EMQ's SDK for MCP takes silence about them for a no, and leaves.
    session.terms.tell(said, plainly=any(name == MCP_COMPONENT for name, _ in asked.user_properties))
    if asked.request_response_information:
        said.response_information = broker.verbs.response_information
        said.user_properties = [(MESH_SELF, mesh_id(broker.log))]
        if len(encode_connack(5, False, 0, said)) > session.packet_max:
            said.response_information, said.user_properties = None, []
    return said


def wants_problems(session: MqttSession) -> bool:
    """Whether reason strings may be sent (§3.1.2.11.7)."""
    connect = session.connect
    return connect is None or connect.properties.request_problem_information != 0


def reject(session: MqttSession, code: int, detail: str) -> None:
    """Says no to a CONNECT, and closes."""
    if session.phase is Phase.CLOSED:
        return
    session.realm.say("mqtt client not taken in: %s", detail, session)
    _turn_away(session, code, session.reason(detail))


def break_off(session: MqttSession, error: ProtocolError) -> None:
    """Closes a connection whose peer broke the protocol before its CONNACK.

    5.0 says why, once there is a CONNECT (§4.13.1: before it, nothing). 3.1.1 closes without a word
    [3.1.1 3.1.4-1] but for a level it does not know: "server unavailable" would ask for another try.
    """
    if session.decoder.version == 5 or error.code == Code.UNSUPPORTED_PROTOCOL_VERSION:
        _turn_away(session, error.code, session.reason(error.detail))
    else:
        _close(session)


def _turn_away(session: MqttSession, code: int, said: Properties | None) -> None:
    version = session.decoder.version
    if version:
        if version == 5:
            frame = encode_connack(5, False, code, said)
        else:
            frame = encode_connack(version, False, return_code(code))
        if len(frame) <= session.packet_max:
            session.send(frame)
    _close(session)


def _close(session: MqttSession) -> None:
    session.phase = Phase.CLOSED
    session.closing = True
    session.wire.wake()


def goodbye(session: MqttSession, packet: Disconnect) -> None:
    """DISCONNECT from the client: no will after code 0, and the expiry may change (§3.14)."""
    expiry_s = packet.properties.session_expiry_interval
    if expiry_s is not None:
        if expiry_s and not session.standing.kept:
            session.fail(ProtocolError(Code.PROTOCOL_ERROR, "session expiry was 0 and cannot be raised [3.14.2-2]"))
            return
        most = session.realm.settings.session_expiry_s_max
        session.realm.standings.set_expiry(session.standing, expiry_s if most == NEVER_S else min(expiry_s, most))
    session.closing = True
    leave(session, clean=packet.code == Code.SUCCESS)


def leave(session: MqttSession, *, clean: bool, resumed: bool = False) -> None:
    """The connection's end for the broker: subscriptions, presence, session, will. Once per connection.

    ``clean``: the client said goodbye, so no will. ``resumed``: another connection goes on with the
    session at once, so a delayed will is not sent at all [3.1.3-9].
    """
    assert session.phase is Phase.OPEN
    session.phase = Phase.CLOSED
    realm = session.realm
    standing = session.standing
    keeps = standing.kept
    realm.traffic.left()
    replays.part(session)
    realm.broker.detach(session)
    session.subscriptions.clear()
    for text in list(session.streams):
        kept_filters.leave_stream(session, text)
    session.owe_nothing()
    realm.standings.leave(standing)
    realm.broker.directory.depart(session, clean=clean, keeps=keeps)
    realm.standings.wills.parted(standing.key, standing.expiry_s, clean=clean, resumed=resumed)
