"""Other people's codecs read what we write and write what we read: mqtt-packet for packets, paho for the tables."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode

from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.codes import FROM_CLIENT, FROM_SERVER, Code
from dragoman.adapters.mqtt.packets import Connect, Publish
from dragoman.adapters.mqtt.properties import parse_properties
from tests.clients.tools import NODE_FOLDER
from tests.mqtt.corpus import CASES, Case, decoder, fields
from tests.mqtt.encode_any import encode_any
from tests.mqtt.test_codec_properties import PACKETS, ROWS

# Reads [[version, hex], …]; answers each with the hex of what it makes of the packets it parsed.
RELAY = """
const mqtt = require('mqtt-packet');
const input = JSON.parse(require('fs').readFileSync(0));
console.log(JSON.stringify(input.map(([protocolVersion, hex]) => {
  let answer = '';
  try {
    const parser = mqtt.parser({protocolVersion});
    parser.on('packet', packet => { answer += mqtt.generate(packet, {protocolVersion}).toString('hex'); });
    parser.on('error', error => { answer = 'error: ' + error.message; });
    parser.parse(Buffer.from(hex, 'hex'));
  } catch (error) { answer = 'error: ' + error.message; }
  return answer;
})));
"""

STRICTER = {
    "auth-5-success": "it refuses the two byte form (§3.15.2.1 allows it)",
    "connect-4-empty-id-kept-session": "it judges in the codec what we leave to the session",
    "connect-5-password-only": "it holds 5.0 to the rule of 3.1.1 [3.1.2-22]",
}
"""What mqtt-packet does not let pass, and why we do. A case that changes sides fails the test."""


def comparable(packet: Any) -> Any:
    """The packet with raw properties as a view, since each codec has its own order of properties."""
    named = dict(fields(packet)[1])
    if isinstance(packet, Publish):
        named["properties"] = fields(parse_properties(packet.properties, codes.PUBLISH))
    if isinstance(packet, Connect) and packet.will is not None:
        will = dict(named["will"][1])
        will["properties"] = fields(parse_properties(packet.will.properties, codes.WILL))
        named["will"] = will
    return type(packet).__name__, named


def relay(node: str, cases: list[Case]) -> list[str]:
    frames = [
        [case.version or getattr(case.packet, "version", 4), encode_any(case.version, case.packet).hex()]
        for case in cases
    ]
    done = subprocess.run(
        [node, "-e", RELAY],
        input=json.dumps(frames),
        cwd=NODE_FOLDER,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return json.loads(done.stdout)


def test_mqtt_packet_understands_us_and_we_it(require: Callable[[str], str]):
    """What we write, it reads and writes anew; that we read again, and it says the same."""
    wrong = {}
    for case, answer in zip(CASES, relay(require("npm:mqtt-packet"), CASES), strict=True):
        if answer.startswith("error"):
            wrong[case.id] = answer
            continue
        reader = decoder(case.version, case.role)
        read = [comparable(packet) for packet in reader.feed(bytes.fromhex(answer))]
        if read != [comparable(case.packet)]:
            wrong[case.id] = f"{case.raw.hex()} came back as {answer}: {read} {reader.error}"
    assert set(wrong) == set(STRICTER), wrong


def test_paho_knows_the_same_reason_codes():
    names = ReasonCode(PacketTypes.DISCONNECT).names
    assert {int(code) for code in Code} == set(names)
    for kind in FROM_SERVER:
        ours = {int(code) for code in FROM_CLIENT.get(kind, frozenset()) | FROM_SERVER[kind]}
        theirs = {number for number, packets in names.items() if any(kind in some for some in packets.values())}
        if kind == codes.CONNACK:
            theirs.add(Code.PAYLOAD_FORMAT_INVALID)  # of a will: in the standard's table 3-1, not in paho's
        assert ours == theirs, kind


@pytest.mark.parametrize(("name", "raw", "view", "packets"), ROWS, ids=[row[0] for row in ROWS])
def test_paho_writes_the_same_properties(name: str, raw: bytes, view: object, packets: list[str]):
    """It packs the value to our bytes, and refuses it where we do."""
    [theirs] = [number for number, (ident, _) in enumerate(PahoProperties(0).properties.items()) if ident == raw[0]]
    attribute = list(PahoProperties(0).names)[theirs].replace(" ", "")
    kinds = {packet: 99 if packet == "WILL" else getattr(PacketTypes, packet) for packet in PACKETS}
    assert set(PahoProperties(0).properties[raw[0]][1]) == {kinds[packet] for packet in packets}
    packed = PahoProperties(kinds[packets[0]])
    value = getattr(view, name)
    setattr(packed, attribute, value[0] if name == "subscription_identifiers" else value)
    assert packed.pack()[1:] == raw
