"""Loads above QoS 0, where both sides answer; retained messages read under flow control; connections that idle."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
from time import perf_counter
from typing import Final, cast

from bench import wire
from bench.crew import Counters, Figures
from bench.load import QUIET_S, Ready, adopt
from bench.wire import MQTT, TOPICS, Address

IN_FLIGHT: Final = 100
"""Unacknowledged publishes of the publisher. Deliveries under way are the broker's own choice, and told with it."""

PUBREC, PUBCOMP = 0x50, 0x70


async def publish(ready: Ready, address: Address, counters: Counters, *, qos: int, seconds: float) -> Figures:
    """Publishes at QoS 1 or 2 for so long, and waits for every acknowledgement."""
    party = _Publishing(qos)
    transport = await adopt(MQTT.join(address, f"bench-qos{qos}-publisher"), party)
    ready()
    party.begin(perf_counter() + seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds + 10):
            await party.done.wait()
    counters.sent = party.acked
    counters.finish()
    transport.close()
    return {"sent": [party.sent], "acked": [party.acked]}


async def receive(ready: Ready, address: Address, counters: Counters, *, qos: int) -> Figures:
    """Subscribes at that QoS and acknowledges all it gets, until everything published is here or nothing more comes."""
    connection = MQTT.join(address, f"bench-qos{qos}-receiver")
    MQTT.listen(connection, TOPICS, qos)
    party = _Receiving(counters, qos)
    transport = await adopt(connection, party)
    ready()
    quiet_since = perf_counter()
    while not party.closed:
        await asyncio.sleep(0.01)
        if not counters.finished or party.last > quiet_since:
            quiet_since = perf_counter()
        if counters.finished and (party.got >= counters.sent or perf_counter() - quiet_since > QUIET_S):
            break
    transport.close()
    return {
        "got": [len(party.seen) if party.seen else party.got],
        "duplicates": [party.duplicates],
        "disorders": [party.disorders],
        "first": [party.first],
        "last": [party.last],
    }


class _Publishing(asyncio.Protocol):
    """Window slots are packet ids 1 … IN_FLIGHT: an id is free again when its handshake is over."""

    def __init__(self, qos: int) -> None:
        self._head = 0x30 | qos << 1
        self._deadline = 0.0
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self.sent = self.acked = 0
        self.done = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def begin(self, deadline: float) -> None:
        self._deadline = deadline
        self._send([n + 1 for n in range(IN_FLIGHT)])

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) // 4 * 4
        self._rest = data[whole:]
        free: list[int] = []
        release = bytearray()
        for at in range(0, whole, 4):
            if data[at] == PUBREC:
                release += b"\x62\x02" + data[at + 2 : at + 4]
            else:
                free.append(data[at + 2] << 8 | data[at + 3])
        assert self._transport is not None
        if release:
            self._transport.write(bytes(release))
        self.acked += len(free)
        if free:
            self._send(free)
        if self.acked >= self.sent:
            self.done.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set()

    def _send(self, ids: list[int]) -> None:
        if perf_counter() >= self._deadline:
            return
        frames = []
        for packet_id in ids:
            topic = TOPICS[self.sent % len(TOPICS)]
            frames.append(wire.publish_frame(self._head, topic, packet_id, wire.payload(self.sent)))
            self.sent += 1
        assert self._transport is not None
        self._transport.write(b"".join(frames))


class _Receiving(asyncio.Protocol):
    """Reads every frame, as a client that acknowledges must; the numbers in the payloads are checked on the way."""

    def __init__(self, counters: Counters, qos: int) -> None:
        self._counters, self._qos = counters, qos
        self._rest = b""
        self._newest = [-1] * len(TOPICS)
        self._transport: asyncio.Transport | None = None
        self.seen: set[int] = set()
        self.got = self.duplicates = self.disorders = 0
        self.first = self.last = 0.0
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.last = perf_counter()
        self.first = self.first or self.last
        data = self._rest + data
        at, end = 0, len(data)
        answer = bytearray()
        frame = wire.QOS_FRAME_BYTES
        id_at = 4 + len(TOPICS[0])
        while end - at >= 4:
            kind = data[at] & 0xF0
            if kind == 0x60:
                answer += b"\x70\x02" + data[at + 2 : at + 4]
                at += 4
                continue
            assert kind == 0x30, f"neither a delivery nor a release: {data[at : at + 8]!r}"
            if end - at < frame:
                break
            answer += (b"\x40\x02" if self._qos == 1 else b"\x50\x02") + data[at + id_at : at + id_at + 2]
            self._note(wire.sequence_in(data, at + id_at + 2))
            at += frame
        self._rest = data[at:]
        assert self._transport is not None
        self._transport.write(bytes(answer))
        self._counters.got(0, self.got)

    def _note(self, sequence: int) -> None:
        topic = sequence % len(TOPICS)
        self.got += 1
        self.duplicates += sequence in self.seen
        self.disorders += sequence <= self._newest[topic]
        self.seen.add(sequence)
        self._newest[topic] = max(sequence, self._newest[topic])

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True


async def replay(ready: Ready, address: Address, *, topics: int) -> Figures:
    """Retains one message in each of ``topics`` channels, then reads all by one filter at QoS 1, with a window of 20.

    Each delivery is acknowledged, so this is a replay under flow control: it is whole, or it has stopped.
    """
    names = [f"kept/{n:06}" for n in range(topics)]
    party = _Setting(names)
    transport = await adopt(MQTT.join(address, "bench-retain"), party)
    party.go_on()
    async with asyncio.timeout(60):
        await party.done.wait()
    transport.close()
    ready()
    reading = _Replayed(names)
    transport = await adopt(MQTT.join(address, "bench-replay"), reading)
    started = perf_counter()
    transport.write(wire.subscribe_frame(["kept/#"], 1))
    heard = -1
    while heard < reading.got and not reading.whole.is_set():
        heard = reading.got
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                await reading.whole.wait()
    transport.close()
    return {
        "sent": [topics],
        "got": [len(reading.seen)],
        "duplicates": [reading.got - len(reading.seen)],
        "seconds": [max(reading.last - started, 1e-9)],
    }


class _Setting(asyncio.Protocol):
    """Retains the topics, a hundred unacknowledged at a time."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._next = self._acked = self._rest = 0
        self._transport: asyncio.Transport | None = None
        self.done = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def go_on(self) -> None:
        frames = []
        while self._next < len(self._names) and self._next - self._acked < IN_FLIGHT:
            frames.append(
                wire.publish_frame(0x33, self._names[self._next], self._next % IN_FLIGHT + 1, wire.payload(self._next))
            )
            self._next += 1
        assert self._transport is not None
        self._transport.write(b"".join(frames))

    def data_received(self, data: bytes) -> None:
        self._rest += len(data)
        self._acked += self._rest // 4
        self._rest %= 4
        self.go_on()
        if self._acked >= len(self._names):
            self.done.set()


class _Replayed(asyncio.Protocol):
    """Acknowledges what is replayed and notes which topics it was."""

    def __init__(self, names: list[str]) -> None:
        self._count = len(names)
        self._size = 2 + 2 + len(names[0]) + 2 + wire.PAYLOAD_BYTES
        self._name_bytes = len(names[0])
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self.seen: set[bytes] = set()
        self.got = 0
        self.last = 0.0
        self.whole = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.last = perf_counter()
        data = self._rest + data
        at = 0
        answer = bytearray()
        while at < len(data):
            size = 5 if data[at] == 0x90 else self._size
            if len(data) - at < size:
                break
            if size != 5:
                name_at = at + 4
                self.seen.add(data[name_at : name_at + self._name_bytes])
                answer += b"\x40\x02" + data[name_at + self._name_bytes : name_at + self._name_bytes + 2]
                self.got += 1
            at += size
        self._rest = data[at:]
        assert self._transport is not None
        self._transport.write(bytes(answer))
        if len(self.seen) == self._count:
            self.whole.set()


async def idle(ready: Ready, address: Address, *, connections: int) -> Figures:
    """Connects so many, keeps them, and tells how many were accepted; ends when it is killed or after its patience."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    accepted = 0
    loop = asyncio.get_running_loop()
    numbers = iter(range(connections))
    kept: list[asyncio.Transport] = []

    async def party() -> None:
        nonlocal accepted
        for number in numbers:
            transport, said = await loop.create_connection(functools.partial(_Idle, number), *address)
            async with asyncio.timeout(wire.SETUP_S):
                answer = await said.accepted
            accepted += answer
            kept.append(transport)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(20, connections)):
            group.create_task(party())
    ready()
    # Until whoever measures has looked: it reads this part's figures when it is done.
    await asyncio.sleep(1.0)
    for transport in kept:
        transport.close()
    return {"sent": [connections], "got": [accepted]}


class _Idle(asyncio.Protocol):
    """Is accepted and says no more."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(wire.connect_frame(f"bench-idle-{self._number}"))

    def data_received(self, data: bytes) -> None:
        if not self.accepted.done():
            self.accepted.set_result(data[:2] == b"\x20\x02" and data[3] == 0)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(ConnectionResetError("closed without an answer"))
