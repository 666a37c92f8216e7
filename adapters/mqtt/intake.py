"""QoS 1 and 2 publishes from a client: taken in once, answered in order, refused in the protocol's own words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from dragoman.adapters.mqtt import codes, mapping, pacing
from dragoman.adapters.mqtt.codes import Code, ProtocolError
from dragoman.adapters.mqtt.encoders import encode_puback, encode_pubrec
from dragoman.broker.log.contract import Ticket
from dragoman.routing.message import EMPTY, Message
from dragoman.routing.origins import once
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.packets import Publish
    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.adapters.mqtt.settings import MqttSettings
    from dragoman.broker.channel import Channel

NOBODY: Final = Code.NO_MATCHING_SUBSCRIBERS

Say: TypeAlias = "Callable[[MqttSession, Message], Ticket | Refusal]"
"""What takes a message in: a channel's route, or the broker for a verb."""


def message(session: MqttSession, packet: Publish, name: str) -> Message | Refusal:
    """The message a PUBLISH says, with a response topic that means the same to everybody."""
    said = mapping.to_message(packet, name, session.agent, session.realm.core.now_ms)
    if said.envelope is not None:
        if session.realm.settings.payload_format_check:
            refusal = mapping.misformed(said)
            if refusal is not None:
                session.realm.metrics.refuse(refusal.reason)
                return refusal
        if said.envelope.reply_to is not None:
            said.envelope = session.realm.broker.verbs.absolute(session, said.envelope)
    return said


def _said(session: MqttSession, packet: Publish, name: str, say: Say) -> Ticket | Refusal:
    """What ``say`` answers. Without properties there is nothing to judge or to respell."""
    if not packet.properties:
        return say(session, Message(name, packet.payload, packet.qos, session.agent, packet.retain))
    found = message(session, packet, name)
    return found if isinstance(found, Refusal) else say(session, found)


def verb(session: MqttSession, packet: Publish, name: str) -> None:
    """A publish that is no message in a channel but asks the mesh to do something."""
    broker = session.realm.broker
    if packet.qos:
        publish(session, packet, name, broker.publish)
        return
    answer = _said(session, packet, name, broker.publish)
    if isinstance(answer, Refusal):
        refuse(session, packet, answer)


def linked(session: MqttSession, packet: Publish, name: str) -> None:
    """A publish by another mesh's link: said once, though a link of ours may pull the same from there."""

    def say(session: MqttSession, message: Message) -> Ticket | Refusal:
        return session.realm.broker.publish(session, message, once(message.envelope or EMPTY, message.name))

    if packet.qos:
        publish(session, packet, name, say)
        return
    answer = _said(session, packet, name, say)
    if isinstance(answer, Refusal):
        refuse(session, packet, answer)


def publish(session: MqttSession, packet: Publish, name: str, say: Say, channel: Channel | None = None) -> None:
    """QoS 1 and 2: taken in once by ``say``, answered in order, when safe.

    ``channel``: where it goes, if whoever published it is to be told that nobody listens there (§3.4.2.1).
    """
    packet_id = packet.packet_id
    standing = session.standing
    if len(session.owed) + len(standing.received) >= session.settings.receive_max and _overrun(session, packet):
        return
    if packet.qos == 2 and packet_id in standing.received:
        ticket = standing.unsafe.get(packet_id) or Ticket(session.owed[-1][0] if session.owed else 0)
        session.answer(ticket, encode_pubrec(session.version, packet_id), _failed_pubrec(session, packet_id))
        return
    answer = _said(session, packet, name, say)
    if isinstance(answer, Refusal):
        refuse(session, packet, answer)
        return
    unheard = channel is not None and not channel.heard and not channel.watchers and session.version == 5
    if packet.qos == 1:
        frame = encode_puback(5, packet_id, NOBODY) if unheard else b"\x40\x02" + packet_id.to_bytes(2, "big")
        if not answer and not session.owed:
            session.send(frame)
            return
        session.answer(answer, frame, _failed_puback(session, packet_id))
    else:
        session.realm.promises.receive(standing, packet_id)
        frame = encode_pubrec(session.version, packet_id, NOBODY if unheard else 0)
        session.answer(answer, frame, _failed_pubrec(session, packet_id))
    if answer:
        session.uncommitted += len(packet.payload) + 64
        if (
            session.uncommitted > session.realm.core.settings.uncommitted_session_bytes_max
            or session.realm.broker.saturated
        ):
            session.wire.hold(True)


def _overrun(session: MqttSession, packet: Publish) -> bool:
    """More unacknowledged publishes than we offered [3.3.4-9]. 3.1.1 knows no such limit, and ``receive_max_policy``
    may let it pass: then the client is not read until it is answered.

    What is owed holds other answers too, and PUBRECs whose ids are in ``received`` already.
    """
    received = session.standing.received
    unacknowledged = len(received) + sum(frame[:1] == b"\x40" for _, frame, _, _ in session.owed)
    if (packet.qos == 2 and packet.packet_id in received) or unacknowledged < session.settings.receive_max:
        return False
    if session.version == 5:
        if session.realm.settings.receive_max_policy == "disconnect":
            detail = "more publishes in flight than Receive Maximum allows"
            session.fail(ProtocolError(Code.RECEIVE_MAXIMUM_EXCEEDED, detail))
            return True
        if not session.overruns:
            session.realm.say("mqtt client exceeds Receive Maximum: %s", "taken all the same", session)
        session.overruns += 1
        session.realm.overruns_total += 1
    if session.owed:
        session.wire.hold(True)
    return False


def topic(session: MqttSession, raw: bytes) -> str | Refusal:
    """The name that a topic means, rewritten if a rule says so."""
    realm = session.realm
    name = raw.decode()
    if session.rewrites.publishes:
        made = session.rewrites.topic(name, session.standing.client_id, session.principal.name)
        if isinstance(made, Refusal):
            realm.metrics.refuse(made.reason)
            return made
        name, raw = made, made.encode()
    return unfit(realm.settings, raw) or name


def unfit(settings: MqttSettings, topic: bytes, reason: Reason = Reason.NAME_INVALID) -> Refusal | None:
    """Why a topic or filter is longer or deeper than the settings allow; every name has been checked otherwise."""
    if len(topic) > settings.topic_bytes_max:
        return Refusal(reason, f"it has {len(topic)} bytes, mqtt.topic_bytes_max is {settings.topic_bytes_max}")
    levels = topic.count(b"/") + 1
    if levels > settings.topic_levels_max:
        return Refusal(reason, f"it has {levels} levels, mqtt.topic_levels_max is {settings.topic_levels_max}")
    return None


def too_large(size: int, most: int) -> Refusal:
    """Why a payload that fits into a packet is still not taken in."""
    return Refusal(Reason.TOO_LARGE, f"the payload has {size} bytes, broker.message_bytes_max is {most}")


def refuse(session: MqttSession, packet: Publish, refusal: Refusal) -> None:
    """Says no to a publish as the version and QoS allow (docs/crossings.md: refusals)."""
    if refusal.reason is Reason.NAME_INVALID and not (session.version == 5 and packet.qos):
        session.fail(ProtocolError(Code.TOPIC_NAME_INVALID, refusal.detail))
    elif refusal.reason is Reason.RATE_EXCEEDED and session.realm.settings.rate_policy == pacing.DISCONNECT:
        session.fail(ProtocolError(Code.MESSAGE_RATE_TOO_HIGH, refusal.detail))
    elif session.version == 5 and packet.qos:
        properties = session.problem(refusal)
        encode = encode_puback if packet.qos == 1 else encode_pubrec
        code = mapping.code_for(codes.PUBACK, refusal.reason)
        session.answer(Ticket(0), encode(5, packet.packet_id, code, properties), no_failure)
    elif (refusal.reason in mapping.PASSING and packet.qos) or session.realm.settings.denied_publish == "disconnect":
        session.fail(ProtocolError(mapping.code_for(codes.DISCONNECT, refusal.reason), refusal.detail))
    else:
        session.realm.metrics.drop(f"publish-{refusal.reason.value}")
        if packet.qos == 1:
            session.answer(Ticket(0), encode_puback(session.version, packet.packet_id), no_failure)
        elif packet.qos == 2:
            session.answer(Ticket(0), encode_pubrec(session.version, packet.packet_id), no_failure)


def leave_open(session: MqttSession) -> None:
    """The connection ends: its session remembers which QoS 2 publishes are not safe yet."""
    for ticket, frame, _, _ in session.owed:
        if ticket and frame[:1] == b"\x50":
            session.realm.promises.left_open(session.standing, int.from_bytes(frame[2:4], "big"), Ticket(ticket))


def _failed_puback(session: MqttSession, packet_id: int) -> Callable[[Refusal], bytes | None]:
    return lambda refusal: (
        encode_puback(5, packet_id, mapping.code_for(codes.PUBACK, refusal.reason), session.problem(refusal))
        if session.version == 5
        else None
    )


def _failed_pubrec(session: MqttSession, packet_id: int) -> Callable[[Refusal], bytes | None]:
    def frame(refusal: Refusal) -> bytes | None:
        session.realm.promises.release(session.standing, packet_id)
        if session.version != 5:
            return None
        return encode_pubrec(5, packet_id, mapping.code_for(codes.PUBREC, refusal.reason), session.problem(refusal))

    return frame


def no_failure(refusal: Refusal) -> bytes | None:
    """What is said when an answer that waits for nothing is refused: that cannot happen."""
    raise AssertionError(f"an answer that waits for nothing was refused: {refusal!r}")
