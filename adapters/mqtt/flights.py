"""QoS 1 and 2 deliveries under way: what their acknowledgements do, and what goes out again after a reconnect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.adapters.mqtt import mapping
from dragoman.adapters.mqtt.codes import Code
from dragoman.adapters.mqtt.encoders import encode_publish, encode_pubrel

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.promises import Flight
    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.broker.log.contract import Ticket


def begin_again(session: MqttSession) -> None:
    """A resumed session: what was under way goes out again, in its order and with its ids [4.4.0-1, 4.6.0-1].

    What a restart has left without its message is offered by the backlog, and finds its id then.
    """
    flights = session.standing.flights
    session.again = dict.fromkeys(i for i, flight in flights.items() if flight.released or flight.message is not None)
    go_on(session)


def go_on(session: MqttSession) -> bool:
    """Resends as much as the client's window and the connection take. True: nothing is left to resend."""
    again = session.again
    while again:
        packet_id = next(iter(again))
        flight = session.standing.flights[packet_id]
        if session.full or (session.window >= session.inflight_max and not flight.released):
            session.starved = True
            return False
        del again[packet_id]
        if flight.released:
            release(session, packet_id, session.standing.wait)
        else:
            _resend(session, packet_id, flight)
    return True


def _resend(session: MqttSession, packet_id: int, flight: Flight) -> None:
    message = flight.message
    assert message is not None
    properties = b""
    if session.version == 5 and (message.envelope is not None or flight.identifiers):
        properties = mapping.properties_of(message, flight.identifiers, session.realm.core.now_ms)
    if session.own_frames is not None:
        properties += session.own_frames.origin(message)
    topic, payload = message.name.encode(), message.payload or b""
    frame = encode_publish(session.version, topic, payload, flight.qos, flight.retain, True, packet_id, properties)
    if len(frame) > session.packet_max:
        session.realm.metrics.drop("larger-than-receiver-takes")
        if flight.group is not None:
            flight.group.settled(message)
        session.realm.promises.landed(session.standing, packet_id)
        return
    flight.sent = True
    session.window += 1
    session.count_out(payload)
    session.send_after(session.standing.wait, frame)


def acked(session: MqttSession, packet_id: int, code: int) -> None:
    """PUBACK: a QoS 1 delivery is over, one way or the other."""
    flight = session.standing.flights.get(packet_id)
    if flight is None or flight.qos != 1:
        return
    _land(session, packet_id, flight, code)


def received(session: MqttSession, packet_id: int, code: int) -> None:
    """PUBREC: the receiver has it, or has refused it. PUBREL leaves when that is safe: then no PUBLISH may follow."""
    flight = session.standing.flights.get(packet_id)
    if flight is None or flight.qos != 2:
        code = Code.PACKET_IDENTIFIER_NOT_FOUND if session.version == 5 else 0
        session.send(encode_pubrel(session.version, packet_id, code))
        return
    if code >= 0x80:
        _land(session, packet_id, flight, code)
        return
    flight.released = True
    session.again.pop(packet_id, None)
    ticket = session.realm.promises.fly(session.standing, packet_id, flight)
    release(session, packet_id, ticket)


def release(session: MqttSession, packet_id: int, ticket: Ticket) -> None:
    """Lets go of a QoS 2 delivery once it is safe that the receiver has it."""
    session.send_after(ticket, encode_pubrel(session.version, packet_id))


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
    if flight.sent:
        session.window -= 1
        assert session.window >= 0, "more deliveries ended than were sent"
    session.again.pop(packet_id, None)
    if flight.group is not None and flight.message is not None:
        (flight.group.refused if code >= 0x80 else flight.group.settled)(flight.message)
    session.realm.promises.landed(session.standing, packet_id)
    backlog = session.standing.backlog
    if backlog is not None and backlog.behind:
        session.starved = True
