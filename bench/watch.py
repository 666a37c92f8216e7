"""A load of one process: watching who comes and goes."""

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


async def _some(connection: socket.socket) -> bytes:
    try:
        async with asyncio.timeout(QUIET_S):
            return await asyncio.get_running_loop().sock_recv(connection, 1 << 18)
    except TimeoutError:
        return b""


def _leave(agent: socket.socket) -> None:
    with agent:
        agent.sendall(wire.DISCONNECT)
