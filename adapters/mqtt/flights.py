"""QoS 1 and 2 deliveries under way: what their acknowledgements do, and what goes out again after a reconnect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.adapters.mqtt import mapping
from dragoman.adapters.mqtt.codes import Code
from dragoman.adapters.mqtt.encoders import encode_publish, encode_pubrel

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.adapters.mqtt.standing import Flight


def resend(session: MqttSession) -> None:
    """A resumed session: what lives only in memory goes out again with its id [4.4.0-1].

    The rest is offered by its backlog, and finds its id there.
    """
    for packet_id, flight in session.standing.flights.items():
        if flight.released and not flight.position:
            session.send(encode_pubrel(session.version, packet_id))
        elif not flight.position and flight.message is not None:
            message = flight.message
            properties = mapping.properties_of(message, (), session.realm.core.now_ms) if session.version == 5 else b""
            topic, payload = message.name.encode(), message.payload or b""
            session.send(
                encode_publish(session.version, topic, payload, flight.qos, False, True, packet_id, properties)
            )


def acked(session: MqttSession, packet_id: int, code: int) -> None:
    """PUBACK: a QoS 1 delivery is over, one way or the other."""
    flight = session.standing.flights.get(packet_id)
    if flight is None or flight.qos != 1:
        return
    _land(session, packet_id, flight, code)


def received(session: MqttSession, packet_id: int, code: int) -> None:
    """PUBREC: the receiver has it, or has refused it."""
    flight = session.standing.flights.get(packet_id)
    if flight is None or flight.qos != 2:
        code = Code.PACKET_IDENTIFIER_NOT_FOUND if session.version == 5 else 0
        session.send(encode_pubrel(session.version, packet_id, code))
        return
    if code >= 0x80:
        _land(session, packet_id, flight, code)
        return
    if not flight.released:
        flight.released = True
        session.realm.standings.fly(session.standing, packet_id, flight)
    session.send(encode_pubrel(session.version, packet_id))


def completed(session: MqttSession, packet_id: int) -> None:
    """PUBCOMP: a QoS 2 delivery is over."""
    flight = session.standing.flights.get(packet_id)
    if flight is not None and flight.qos == 2:
        _land(session, packet_id, flight, 0)


def _land(session: MqttSession, packet_id: int, flight: Flight, code: int) -> None:
    if code >= 0x80:
        session.realm.metrics.drop("refused-by-receiver")
    else:
        session.realm.metrics.acked += 1
    if flight.group is not None and flight.message is not None:
        flight.group.settled(flight.message)
    session.realm.standings.landed(session.standing, packet_id)
