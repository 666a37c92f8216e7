"""The parts of a load. Each runs in a process of its own (``crew``) and reports plain figures."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, cast

from bench import wire
from bench.crew import Counters, Figures
from bench.wire import MQTT, PACKET_IDS, TOPICS, Address, Wire

BATCH: Final = 500
"""Messages a send: what a busy gateway hands over at once."""
NAP_S: Final = 0.0005
LOOK_S: Final = 0.01
QUIET_S: Final = 2.0
"""A receiver that hears nothing for this long after the last was sent gives up: the rest is lost."""
BUFFER_BYTES: Final = 256 * 1024

Ready = Callable[[], None]


class _Counting(asyncio.Protocol):
    """Counts bytes, nothing else: the measured receiver must not be what is measured."""

    def __init__(self, counters: Counters, receiver: int, frame_bytes: int) -> None:
        self._counters, self._receiver, self._frame_bytes = counters, receiver, frame_bytes
        self.bytes = 0
        self.first = self.last = 0.0
        self.closed = False

    def data_received(self, data: bytes) -> None:
        self.last = perf_counter()
        if not self.bytes:
            self.first = self.last
        self.bytes += len(data)
        self._counters.got(self._receiver, self.bytes // self._frame_bytes)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True


class Checking(_Counting):
    """Also reads every frame: which message it is, and whether its topic's messages come in order."""

    def __init__(self, counters: Counters, receiver: int, spoken: Wire) -> None:
        super().__init__(counters, receiver, spoken.frame_bytes)
        self._spoken = spoken
        self._rest = b""
        self._newest = [-1] * len(TOPICS)
        self.seen: set[int] = set()
        self.duplicates = self.disorders = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        size, spoken = self._spoken.frame_bytes, self._spoken
        data = self._rest + data
        whole = len(data) - len(data) % size
        for at in range(0, whole, size):
            assert data.startswith(spoken.begins_with, at), f"not a delivery: {data[at : at + size]!r}"
            sequence = wire.sequence_in(data, at + spoken.payload_at)
            topic = sequence % len(TOPICS)
            self.duplicates += sequence in self.seen
            self.disorders += sequence <= self._newest[topic]
            self.seen.add(sequence)
            self._newest[topic] = max(sequence, self._newest[topic])
        self._rest = data[whole:]


async def receive(
    ready: Ready, address: Address, spoken: Wire, counters: Counters, receiver: int, *, check: bool
) -> Figures:
    """Subscribes to all topics and takes what comes until everything sent is here or nothing more comes."""
    connection = spoken.join(address, f"bench-receiver-{receiver}")
    spoken.listen(connection, TOPICS)
    counting = Checking(counters, receiver, spoken) if check else _Counting(counters, receiver, spoken.frame_bytes)
    transport = await adopt(connection, counting)
    ready()
    await _settled(counters, lambda: counting.closed)
    if check:
        # A duplicate would arrive after everything is here; it is given a moment to do so.
        await asyncio.sleep(5 * LOOK_S)
    transport.close()
    figures: Figures = {
        "got": [counting.bytes // spoken.frame_bytes],
        "first": [counting.first],
        "last": [counting.last],
    }
    if isinstance(counting, Checking):
        figures |= {
            "got": [len(counting.seen)],
            "duplicates": [counting.duplicates],
            "disorders": [counting.disorders],
        }
    return figures


class _Writing(asyncio.Protocol):
    """Lets the flood wait while the transport's buffer is full."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.closed = False

    def pause_writing(self) -> None:
        self.open.clear()

    def resume_writing(self) -> None:
        self.open.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.open.set()


async def flood(
    ready: Ready,
    address: Address,
    spoken: Wire,
    counters: Counters,
    *,
    window: int,
    seconds: float,
    messages: int | None = None,
) -> Figures:
    """Publishes as fast as the slowest receiver takes it, never more than ``window`` messages ahead.

    An unpaced flood measures which broker drops most; this one measures what gets through. Ends after ``seconds``,
    or after ``messages``, which then carry sequence numbers.
    """
    connection = spoken.join(address, "bench-flood")
    writing = _Writing()
    transport = await adopt(connection, writing)
    transport.set_write_buffer_limits(high=BUFFER_BYTES)
    ready()
    constant = _batch(spoken, 0)
    sent, progress = 0, -1
    moved = started = perf_counter()
    while not writing.closed and (sent < messages if messages else perf_counter() - started < seconds):
        slowest = counters.slowest()
        if sent - slowest >= window:
            now = perf_counter()
            if slowest != progress:
                progress, moved = slowest, now
            elif now - moved > QUIET_S:
                break
            await asyncio.sleep(NAP_S)
            continue
        transport.write(_batch(spoken, sent) if messages else constant)
        sent += BATCH
        counters.sent = sent
        await (asyncio.sleep(0) if writing.open.is_set() else writing.open.wait())
    counters.finish()
    # Closing sooner could reset the connection under frames the broker has not read yet.
    await _settled(counters, lambda: writing.closed)
    closed_on_us = writing.closed
    transport.close()
    return {"sent": [sent], "closed": [float(closed_on_us)]}


async def acknowledged(
    ready: Ready,
    address: Address,
    topics: Sequence[str],
    *,
    connections: int,
    in_flight: int,
    seconds: float,
    messages: int,
) -> Figures:
    """Publishes at QoS 1, each connection keeping ``in_flight`` unacknowledged, for ``seconds`` or ``messages``."""
    frames = wire.acked_publishes(topics, PACKET_IDS)
    answers = 2 * wire.acks(PACKET_IDS)
    each = max(1, messages // connections)
    parties = [_Acked(frames, answers, each, in_flight) for _ in range(connections)]
    for n, party in enumerate(parties):
        await adopt(MQTT.join(address, f"bench-acked-{n}"), party)
    ready()
    started = perf_counter()
    for party in parties:
        party.begin(started + seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds + 10):
            for party in parties:
                await party.done.wait()
    last = max(party.last for party in parties)
    return {
        "sent": [sum(party.sent for party in parties)],
        "got": [sum(party.acked for party in parties)],
        "disorders": [sum(party.wrong for party in parties)],
        "seconds": [last - started],
        "latencies": [value for party in parties for value in party.latencies],
    }


class _Acked(asyncio.Protocol):
    """Keeps its window full. The acknowledgements must come in order, so they are compared, not parsed."""

    def __init__(self, frames: tuple[bytes, int], answers: bytes, messages: int, in_flight: int) -> None:
        self._frames, self._size = memoryview(frames[0]), frames[1]
        self._answers = answers
        self._messages, self._in_flight = messages, in_flight
        self._deadline = 0.0
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self.sent = self.acked = self.wrong = 0
        self.last = self._asked = 0.0
        self.latencies: list[float] = []
        self.done = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def begin(self, deadline: float) -> None:
        self._deadline = deadline
        self._send(self._in_flight)

    def data_received(self, data: bytes) -> None:
        self.last = perf_counter()
        data = self._rest + data
        count = len(data) // 4
        at = self.acked % PACKET_IDS
        self.wrong += data[: 4 * count] != self._answers[4 * at : 4 * (at + count)]
        self._rest = data[4 * count :]
        self.acked += count
        if self._in_flight == 1 and count:
            self.latencies.append(self.last - self._asked)
        if self.last < self._deadline:
            self._send(min(count, self._messages - self.sent))
        if self.acked >= self.sent:
            self.done.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set()

    def _send(self, count: int) -> None:
        assert self._transport is not None
        self._asked = perf_counter()
        count = min(count, self._messages - self.sent)
        while count > 0:
            at = self.sent % PACKET_IDS
            now = min(count, PACKET_IDS - at)
            self._transport.write(self._frames[at * self._size : (at + now) * self._size])
            self.sent += now
            count -= now


async def connects(ready: Ready, address: Address, *, count: int, at_once: int) -> Figures:
    """Connects, is accepted and leaves, ``count`` times, at most ``at_once`` together."""
    loop = asyncio.get_running_loop()
    accepted = 0
    numbers = iter(range(count))

    async def party() -> None:
        nonlocal accepted
        for number in numbers:
            once = functools.partial(_Once, wire.connect_frame(f"bench-connect-{number}"))
            transport, said = await loop.create_connection(once, *address)
            async with asyncio.timeout(wire.SETUP_S):
                answer = await said.answer
            accepted += answer[:2] == b"\x20\x02" and answer[3] == 0
            transport.write(wire.DISCONNECT)
            transport.close()

    ready()
    started = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(party())
    return {"sent": [count], "got": [accepted], "seconds": [perf_counter() - started]}


class _Once(asyncio.Protocol):
    """Says one thing and waits for the first answer."""

    def __init__(self, word: bytes) -> None:
        self._word = word
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._word)

    def data_received(self, data: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionResetError("closed without an answer"))


async def _settled(counters: Counters, closed: Callable[[], bool]) -> None:
    """Returns when everybody has all that was sent, or hears nothing more. Shared memory wakes nobody: hence looks."""
    progress, moved = -1, perf_counter()
    while not closed():
        await asyncio.sleep(LOOK_S)
        got, now = counters.total(), perf_counter()
        if got != progress or not counters.finished:
            progress, moved = got, now
        if counters.finished and (counters.slowest() >= counters.sent or now - moved > QUIET_S):
            return


async def adopt(connection: socket.socket, protocol: asyncio.Protocol) -> asyncio.Transport:
    """A transport of the connection, without Nagle's delay."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=connection)
    return transport


def _batch(spoken: Wire, first: int) -> bytes:
    return b"".join(spoken.publish(TOPICS[n % len(TOPICS)], wire.payload(n)) for n in range(first, first + BATCH))
