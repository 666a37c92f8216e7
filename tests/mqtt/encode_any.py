"""One packet in, its bytes out: the encoders behind one name, for tests that go round."""

from __future__ import annotations

from dragoman.adapters.mqtt import encoders
from dragoman.adapters.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)

ACKS = {
    Puback: encoders.encode_puback,
    Pubrec: encoders.encode_pubrec,
    Pubrel: encoders.encode_pubrel,
    Pubcomp: encoders.encode_pubcomp,
}


def encode_any(version: int, packet: Packet) -> bytes:
    match packet:
        case Connect():
            return encoders.encode_connect(packet)
        case Connack():
            return encoders.encode_connack(version, packet.session_present, packet.code, packet.properties)
        case Publish():
            return encoders.encode_publish(
                version,
                packet.topic,
                packet.payload,
                packet.qos,
                packet.retain,
                packet.dup,
                packet.packet_id,
                packet.properties,
            )
        case Puback() | Pubrec() | Pubrel() | Pubcomp():
            return ACKS[type(packet)](version, packet.packet_id, packet.code, packet.properties)
        case Subscribe():
            return encoders.encode_subscribe(version, packet)
        case Unsubscribe():
            return encoders.encode_unsubscribe(version, packet)
        case Suback():
            return encoders.encode_suback(version, packet.packet_id, packet.codes, packet.properties)
        case Unsuback():
            return encoders.encode_unsuback(version, packet.packet_id, packet.codes, packet.properties)
        case Disconnect():
            return encoders.encode_disconnect(version, packet.code, packet.properties)
        case Auth():
            return encoders.encode_auth(packet.code, packet.properties)
        case Pingreq():
            return encoders.PINGREQ
    return encoders.PINGRESP
