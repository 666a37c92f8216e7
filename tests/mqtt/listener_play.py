"""A mesh with MQTT listeners of its own in this process, on either event loop, and bare peers that speak MQTT to it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from dragoman import Mesh
from dragoman.adapters.mqtt.codec import CLIENT, Decoder
from dragoman.adapters.mqtt.encoders import encode_connect
from dragoman.adapters.mqtt.listener_settings import ListenerSettings
from dragoman.adapters.mqtt.packets import Connack, Connect, Packet
from dragoman.adapters.mqtt.session import MqttSession
from dragoman.adapters.mqtt.settings import MqttSettings
from dragoman.adapters.serving.settings import ListenSettings
from dragoman.config import Config

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
ANYWHERE = "127.0.0.1:0"


def play(
    scene: Callable[[Mesh], Awaitable[None]], *listeners: ListenerSettings, loop: str = "asyncio", **settings: Any
) -> None:
    """Runs a scene on a mesh that has these listeners and no others."""
    off = ListenSettings(mqtt="off", kafka="off", http="off")
    mqtt = settings.pop("mqtt", None) or MqttSettings(listeners=listeners)
    config = Config(data=":memory:", listen=off, mqtt=mqtt, **settings)

    async def main() -> None:
        async with asyncio.timeout(20), Mesh(config) as mesh:
            await scene(mesh)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


def sessions(mesh: Mesh) -> list[MqttSession]:
    return [session for session in mesh.broker.sessions() if isinstance(session, MqttSession)]


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something the mesh does in its own time; the scene's deadline ends it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


class Peer:
    """A socket that speaks MQTT when it wants to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self.reader = reader
        self.writer = writer
        self.version = version
        self._decoder = Decoder(max_packet_bytes=1 << 20, role=CLIENT, version=version)
        self._packets: list[Packet] = []

    @classmethod
    async def open(
        cls, mesh: Mesh, listener: str, first: bytes = b"", *, version: int = 5, tls: ssl.SSLContext | None = None
    ) -> Peer:
        """Connects, says ``first`` in the clear, and then begins TLS if there is a context for it."""
        address = mesh.addresses[listener]
        if address.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port), ssl=None if first else tls)
        if first:
            writer.write(first)
            if tls is not None:
                await writer.start_tls(tls, server_hostname="127.0.0.1")
        return cls(reader, writer, version)

    async def connect(
        self, client_id: str = "c", username: str | None = None, password: bytes | None = None
    ) -> Connack:
        """Says CONNECT and reads the answer."""
        self.writer.write(encode_connect(Connect(self.version, client_id, True, 0, username, password)))
        answer = await self.packet()
        assert isinstance(answer, Connack)
        return answer

    async def packet(self) -> Packet:
        """The next packet. Raises EOFError when there will be none."""
        while not self._packets:
            data = await self.reader.read(65_536)
            if not data:
                raise EOFError
            self._packets.extend(self._decoder.feed(data))
        return self._packets.pop(0)

    async def ended(self) -> bool:
        """Waits for the mesh to end the connection; whether it did so without a word."""
        try:
            said = await self.reader.read()
        except ConnectionError:
            said = b""
        self.close()
        return not said

    def close(self) -> None:
        self.writer.close()


def context(authority: Any, certificate: tuple[Any, Any] | None = None) -> ssl.SSLContext:
    """A client's, which trusts the authority and shows a certificate if it has one."""
    made = ssl.create_default_context(cafile=str(authority.ca))
    if certificate is not None:
        made.load_cert_chain(str(certificate[0]), str(certificate[1]))
    return made
