"""mqtt-packet's own test vectors, valid and invalid, read by our codec: the same packets, or a refusal as well."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.codec import CLIENT, SERVER
from dragoman.adapters.mqtt.packets import (
    Connack,
    Connect,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from dragoman.adapters.mqtt.properties import Properties, parse_properties
from tests.attributes import attributes
from tests.clients.tools import NODE_FOLDER
from tests.mqtt.corpus import decoder

SCRIPT = Path(__file__).with_name("mqtt_packet_vectors.cjs")

OURS = {
    "connect MQTT bridge 131 parse": "mosquitto's private level: refused, and then said plainly (test_live_bridge)",
    "connect MQTT bridge 132 parse": "the same",
    "Version 4 CONACK in Version 5 mode": "it lets a 5.0 client read what a 3.1.1 server says; no server need do that",
    "Version 5 CONNACK test 1": "a CONNACK cut short, which it completes: neither code nor property length [2.2.2-1]",
    "Version 5 CONNACK test 2": "the same without a property length",
    "connack MQTT 5 with properties parse": "it says a Maximum QoS of 2, which may be 0 or 1 (§3.2.2.3.4)",
    "connack MQTT 5 with properties and doubled user properties parse": "the same",
    "disconnect MQTT 5 parse": "an expiry, which only clients say, beside a server reference, which only servers say",
}
"""Where we read something else, and why. A vector that changes sides fails the test."""


class Vector(NamedTuple):
    """``version`` 0: the first packet is a CONNECT. ``error``: what they say of what follows the packets, or None."""

    name: str
    version: int
    raw: bytes
    packets: list[dict[str, Any]]
    error: str | None


@pytest.fixture(scope="module")
def vectors(require: Callable[[str], str]) -> list[Vector]:
    node = require("npm:mqtt-packet")
    done = subprocess.run(
        [node, str(SCRIPT)],
        env={"NODE_PATH": str(NODE_FOLDER / "node_modules")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[tuple[bytes, int], Vector] = {}
    seen: Counter[str] = Counter()
    for each in json.loads(done.stdout):
        raw = bytes.fromhex(each["hex"])
        version = 0 if raw[0] >> 4 == codes.CONNECT else each["version"] or 4
        if (raw, version) not in found:
            seen[each["name"]] += 1
            name = each["name"] + f" {seen[each['name']]}" * (seen[each["name"]] > 1)
            found[raw, version] = Vector(name, version, raw, each["packets"], each["error"])
    return list(found.values())


# -- our packets in their words ----------------------------------------------------------------------


def camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


RENAMED = {
    "maximumQos": "maximumQoS",
    "subscriptionIdentifierAvailable": "subscriptionIdentifiersAvailable",
    "subscriptionIdentifiers": "subscriptionIdentifier",
}
FLAGS = {"payload_format_indicator", "request_problem_information", "request_response_information", "retain_available"}
FLAGS |= {"wildcard_subscription_available", "subscription_identifier_available", "shared_subscription_available"}


def said(properties: Properties) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in attributes(Properties):
        value = getattr(properties, name)
        if value is None or value == []:
            continue
        if name == "user_properties":
            pairs: dict[str, Any] = {}
            for key, text in value:
                pairs.setdefault(key, []).append(text)
            value = {key: texts if len(texts) > 1 else texts[0] for key, texts in pairs.items()}
        elif name == "subscription_identifiers":
            value = value if len(value) > 1 else value[0]
        elif name in FLAGS:
            value = bool(value)
        elif isinstance(value, bytes):
            value = {"hex": value.hex()}
        found[RENAMED.get(camel(name), camel(name))] = value
    return found


def theirs(packet: Any, version: int) -> dict[str, Any]:
    """A packet of ours as mqtt-packet would have given it, without what it has from the fixed header alone."""
    found: dict[str, Any] = {"cmd": type(packet).__name__.lower()}
    if hasattr(packet, "packet_id") and not (isinstance(packet, Publish) and not packet.qos):
        found["messageId"] = packet.packet_id
    properties = packet.properties if hasattr(packet, "properties") else Properties()
    match packet:
        case Publish():
            properties = parse_properties(packet.properties, codes.PUBLISH)
            found |= {"topic": packet.topic.decode(), "payload": {"hex": packet.payload.hex()}}
            found |= {"qos": packet.qos, "retain": packet.retain, "dup": packet.dup}
        case Connect():
            found |= connect(packet)
        case Connack():
            found |= {"sessionPresent": packet.session_present, "code": packet.code}
        case Subscribe():
            found["subscriptions"] = [wanted(each, version) for each in packet.subscriptions]
        case Unsubscribe():
            found["unsubscriptions"] = packet.filters
        case Suback() | Unsuback():
            found["granted"] = packet.codes
        case _ if hasattr(packet, "code"):
            found["code"] = packet.code
    return found | {"properties": said(properties)}


def wanted(subscription: Subscription, version: int) -> dict[str, Any]:
    found: dict[str, Any] = {"topic": subscription.filter, "qos": subscription.qos}
    if version == 5:
        found |= {"nl": subscription.no_local, "rap": subscription.retain_as_published}
        found["rh"] = subscription.retain_handling
    return found


def connect(packet: Connect) -> dict[str, Any]:
    found: dict[str, Any] = {
        "protocolVersion": packet.version,
        "clean": packet.clean_start,
        "keepalive": packet.keepalive,
        "clientId": packet.client_id,
        "username": packet.username,
        "password": None if packet.password is None else {"hex": packet.password.hex()},
        "will": None,
    }
    will = packet.will
    if will is not None:
        found["will"] = {"topic": will.topic.decode(), "payload": {"hex": will.payload.hex()}}
        found["will"] |= {"qos": will.qos, "retain": will.retain}
        found["will"]["properties"] = said(parse_properties(will.properties, codes.WILL))
    return found


def told(packet: dict[str, Any]) -> dict[str, Any]:
    """A packet of theirs, with the names and defaults that ``theirs`` has."""
    found = dict(packet)
    header = ("retain", "qos", "dup", "topic", "payload") if found["cmd"] != "publish" else ()
    for name in ("length", "protocolId", "bridgeMode", *header):
        found.pop(name, None)
    for name in ("reasonCode", "returnCode"):
        if name in found:
            found["code"] = found.pop(name)
    if found["cmd"] in ("puback", "pubrec", "pubrel", "pubcomp", "disconnect", "auth"):
        found.setdefault("code", 0)
    if found["cmd"] == "unsuback":
        found.setdefault("granted", [])
    if found["cmd"] == "connect":
        found = {"username": None, "password": None, "will": None} | found
        if found["will"] is not None:
            found["will"] = {"properties": {}} | found["will"]
    return {"properties": {}} | found


def reading(vector: Vector, role: str) -> tuple[list[dict[str, Any]], bool]:
    """What we make of it: packets, and whether it ends in an error."""
    reader = decoder(vector.version, role)
    packets = [theirs(packet, reader.version) for packet in reader.feed(vector.raw)]
    return packets, reader.error is not None


def test_their_vectors_are_ours(vectors: list[Vector]) -> None:
    """Some packets go both ways, with other rules each way: it is enough that one role agrees."""
    differ = {}
    for vector in vectors:
        expected = [told(packet) for packet in vector.packets], vector.error is not None
        found = [reading(vector, role) for role in (SERVER, CLIENT)]
        if expected not in found:
            made = "\n  ".join(f"{each}" for each in (expected, *found))
            differ[vector.name] = f"{vector.raw.hex()} {vector.error or ''}\n  {made}"
    strange = [f"{name}: {text}" for name, text in differ.items() if name not in OURS]
    assert set(differ) == set(OURS), "\n".join(strange)


def test_there_are_as_many_as_there_were(vectors: list[Vector]) -> None:
    assert len(vectors) >= 130
    assert sum(vector.error is not None for vector in vectors) >= 60
    kinds = {packet["cmd"] for vector in vectors for packet in vector.packets}
    assert len(kinds) == 15
