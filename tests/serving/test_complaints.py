"""Malformed frames: one line of the log for each bad connection, as the log is by default, and a bound on them all."""

from __future__ import annotations

import asyncio
import logging

import pytest

from dragoman.adapters.serving.complaints import LINES_MAX, Complaints
from dragoman.adapters.serving.settings import ListenSettings
from dragoman.broker.clock import ManualClock
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.timers import Timers
from dragoman.config import MEMORY, Config
from dragoman.mesh import Mesh
from tests.mqtt.wire import HandLoop

ANY = ListenSettings(mqtt="127.0.0.1:0", kafka="127.0.0.1:0", http="127.0.0.1:0")

CONNECT = bytes.fromhex("1010 0004 4d515454 04 02 003c 0004 62616463")
"""Client `badc`, MQTT 3.1.1, clean session."""
METADATA = bytes.fromhex("0003000c00000007")

BAD = [
    pytest.param("mqtt", b"\xf3\x00", "mqtt connection closed: ", "", id="a first packet that is none"),
    pytest.param("mqtt", b"\xc0\x00", "the first packet was not a CONNECT", "", id="a first packet out of turn"),
    pytest.param("mqtt", CONNECT + b"\xf3\x00", "mqtt connection closed: ", "badc", id="a packet that is none"),
    pytest.param("kafka", b"\xde\xad\xbe\xef" * 4, "kafka connection cut: ", "", id="no request"),
    pytest.param("http", b"what is this\r\n\r\n", "http connection closed: this is not HTTP", "", id="no HTTP"),
]


def twice_bad() -> bytes:
    """Two requests whose bodies are none; Kafka answers each and goes on."""
    one = METADATA + b"\x00\x03dot" + b"\x00" + b"\x7f"
    return (len(one).to_bytes(4, "big") + one) * 2


async def until_closed(address: str, data: bytes) -> tuple[str, bytes]:
    """Sends, ends its side, reads to the end. Who it was, and what it heard."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    name = writer.get_extra_info("sockname")
    writer.write(data)
    try:
        heard = await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        heard = b""
    writer.close()
    return f"{name[0]}:{name[1]}", heard


@pytest.mark.parametrize(("protocol", "data", "what", "client"), BAD)
def test_a_bad_connection_is_one_line(
    protocol: str, data: bytes, what: str, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> str:
        async with Mesh(Config(data=MEMORY, listen=ANY)) as mesh:
            peer, _ = await until_closed(mesh.addresses[protocol], data)
            assert mesh.broker.metrics.wire(protocol).errors == 1
        return peer

    with caplog.at_level(logging.INFO, "dragoman"):
        peer = asyncio.run(main())
    (line,) = [record for record in caplog.records if record.name.startswith("dragoman")]
    assert line.levelno == logging.WARNING
    assert what in line.getMessage()
    shown = f", client {client!r}" if client else ""
    assert line.getMessage().endswith(f"(peer {peer}{shown})")


def test_a_kafka_connection_that_goes_on_being_bad_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Mesh(Config(data=MEMORY, listen=ANY)) as mesh:
            data = twice_bad() + b"\xff\xff\xff\xff"
            await until_closed(mesh.addresses["kafka"], data)
            assert mesh.broker.metrics.wire("kafka").errors == 3

    asyncio.run(main())
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("dragoman")]
    assert "kafka request refused" in line
    assert "client 'dot'" in line


def test_a_flood_is_counted_not_written(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    loop = HandLoop(clock)
    timers = Timers(clock, loop.call_later, MemoryLog(1 << 20))
    complaints = Complaints("mqtt", logging.getLogger("dragoman.mqtt"), timers)

    def flood(count: int) -> list[str]:
        caplog.clear()
        for _ in range(count):
            complaints.say("connection closed", "it is bad", peer="192.0.2.1:1", client="x\n" * 9000)
        loop.advance(60_001)
        return [record.getMessage() for record in caplog.records]

    lines = flood(LINES_MAX + 7)
    assert len(lines) == LINES_MAX + 1
    assert lines[-1] == "mqtt: 7 more bad connections were left out of this log in the last minute"
    assert max(map(len, lines)) < 300
    assert "\n" not in "".join(lines)
    assert len(flood(1)) == 1
    assert len(flood(LINES_MAX)) == LINES_MAX
