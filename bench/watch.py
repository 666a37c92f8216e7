"""Two loads of one process: replaying what is retained, and watching who comes and goes."""

from __future__ import annotations

import asyncio
import socket
from time import perf_counter
from typing import Final

from bench import wire
from bench.crew import Figures
from bench.load import QUIET_S, Ready
from bench.wire import MQTT, Address

PRESENCE: Final = "$mesh/v1/presence/+"


async def replay(ready: Ready, address: Address, *, topics: int) -> Figures:
    """Retains one message in each of ``topics`` channels, then subscribes to all by one filter and times the replay."""
    names = [f"kept/{n:06}" for n in range(topics)]
    loop = asyncio.get_running_loop()
    setter = MQTT.join(address, "bench-retain")
    setter.setblocking(False)
    for first in range(0, topics, 100):
        part = names[first : first + 100]
        frames, _ = wire.acked_publishes(part, len(part), retain=True)
        await loop.sock_sendall(setter, frames)
        await _take(setter, 4 * len(part))
    setter.close()
    ready()

    reader = MQTT.join(address, "bench-replay")
    reader.setblocking(False)
    started = perf_counter()
    await loop.sock_sendall(reader, wire.subscribe_frame(["kept/#"]))
    suback_bytes, frame_bytes = 5, 2 + 2 + len(names[0]) + wire.PAYLOAD_BYTES
    raw = await _take(reader, suback_bytes + topics * frame_bytes)
    took = perf_counter() - started
    reader.close()
    # The SUBACK may stand before, between or after the messages [MQTT-3.8.4-3]; the names need no frame borders.
    seen = sum(1 for name in names if name.encode() in raw)
    return {"sent": [topics], "got": [seen], "duplicates": [_again(raw, names)], "seconds": [took]}


async def presence(ready: Ready, address: Address, *, agents: int) -> Figures:
    """One watcher sees ``agents`` come and go; the figures are from CONNECT until the watcher has read ``online``."""
    loop = asyncio.get_running_loop()
    watcher = MQTT.join(address, "bench-watcher")
    MQTT.listen(watcher, [PRESENCE])
    watcher.setblocking(False)
    ready()
    latencies: list[float] = []
    for n in range(agents):
        name = f"bench-agent-{n:04}"
        started = perf_counter()
        agent = await loop.run_in_executor(None, MQTT.join, address, name)
        if await _hear(watcher, name.encode(), b'"online"'):
            latencies.append(perf_counter() - started)
        await loop.run_in_executor(None, _leave, agent)
    return {"sent": [agents], "got": [len(latencies)], "latencies": latencies}


async def _hear(watcher: socket.socket, *words: bytes) -> bool:
    """Reads until all words were heard; False if nothing comes."""
    heard = b""
    while not all(word in heard for word in words):
        part = await _some(watcher)
        if not part:
            return False
        # Only this agent's news matters; the end is kept in case a word is cut in two.
        heard = heard[-4_096:] + part
    return True


async def _take(connection: socket.socket, size: int) -> bytes:
    """``size`` bytes, or fewer if nothing more comes."""
    got = bytearray()
    while len(got) < size:
        part = await _some(connection)
        if not part:
            break
        got += part
    return bytes(got)


async def _some(connection: socket.socket) -> bytes:
    try:
        async with asyncio.timeout(QUIET_S):
            return await asyncio.get_running_loop().sock_recv(connection, 1 << 18)
    except TimeoutError:
        return b""


def _leave(agent: socket.socket) -> None:
    with agent:
        agent.sendall(wire.DISCONNECT)


def _again(raw: bytes, names: list[str]) -> int:
    """How many deliveries there were beyond one a name."""
    return max(0, raw.count(names[0].partition("/")[0].encode() + b"/") - len(names))
