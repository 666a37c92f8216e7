"""The entrance where connections are taken one by one: without descriptors, and with too many that say nothing."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable

import pytest

from dragoman.adapters.serving import entrance
from dragoman.adapters.serving.complaints import Complaints
from dragoman.adapters.serving.entrance import Arrival, Entrance
from dragoman.adapters.serving.limits import ConnectionLimits
from dragoman.adapters.serving.settings import LimitSettings
from dragoman.adapters.serving.sockets import Address, listen
from dragoman.broker.clock import ManualClock
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.metrics import Wire
from dragoman.broker.timers import Timers

LINE = b"PROXY TCP4 203.0.113.9 10.0.0.1 5 6\r\n"


class Door:
    """An entrance behind relays on this machine, and the arrivals it has let in."""

    def __init__(self, sockets: list[socket.socket], **limits: float) -> None:
        self.sockets = sockets
        self.arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        self.limits = ConnectionLimits(LimitSettings(**limits))  # type: ignore[arg-type]
        self.wire = Wire("mqtt")
        clock = ManualClock()
        timers = Timers(clock, asyncio.get_running_loop().call_later, MemoryLog(clock=clock))
        complaints = Complaints("mqtt", logging.getLogger("test"), timers)
        relays = [ipaddress.ip_network("127.0.0.0/8")]
        self.entrance = Entrance(sockets, self._made, self.limits, self.wire, complaints, relays=relays)

    def _made(self, arrival: Arrival | None) -> asyncio.Protocol:
        assert arrival is not None
        self.arrivals.put_nowait(arrival)
        return asyncio.Protocol()

    async def peer(self, said: bytes) -> asyncio.StreamWriter:
        host, port = self.sockets[0].getsockname()
        _, writer = await asyncio.open_connection(host, port)
        writer.write(said)
        return writer


def play(scene: Callable[[Door], Awaitable[None]], door: Callable[[], Door]) -> None:
    async def main() -> None:
        made = door()
        async with asyncio.timeout(10):
            await made.entrance.start()
            try:
                await scene(made)
            finally:
                await made.entrance.stop()

    asyncio.run(main())


class Exhausted(socket.socket):
    """A listening socket of a process that has no descriptor left, twice."""

    left = 2

    def accept(self) -> tuple[socket.socket, object]:
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_without_descriptors_it_waits_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(entrance, "RETRY_S", 0.01)

    def door() -> Door:
        (plain,) = listen(Address("127.0.0.1", 0))
        exhausted = Exhausted(plain.family, plain.type, 0, plain.detach())
        exhausted.setblocking(False)
        return Door([exhausted])

    async def scene(door: Door) -> None:
        writer = await door.peer(LINE)
        arrival = await door.arrivals.get()
        assert (arrival.host, door.limits.open) == ("203.0.113.9", 1)
        writer.close()

    play(scene, door)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "nothing is accepted for a second: Too many open files"
    ] * 2


def test_those_who_wait_for_their_relays_word_are_bounded() -> None:
    async def scene(door: Door) -> None:
        waiting = [await door.peer(LINE[:9]) for _ in range(3)]
        while door.wire.turned_away < 1:  # noqa: ASYNC110 - it notices in its own time
            await asyncio.sleep(0)
        assert door.limits.open == 0
        for writer in waiting:
            writer.write(LINE[9:])
        await door.arrivals.get()
        await door.arrivals.get()
        assert (door.wire.turned_away, door.limits.open, door.arrivals.qsize()) == (1, 2, 0)
        for writer in waiting:
            writer.close()

    play(scene, lambda: Door(listen(Address("127.0.0.1", 0)), backlog=2))


def test_an_arrival_is_counted_once_and_leaves_once() -> None:
    limits = ConnectionLimits(LimitSettings(connections_max=1))
    first, second = (Arrival(host, host, local=False) for host in ("203.0.113.1", "203.0.113.2"))
    assert first.admit(limits) is None
    assert first.admit(limits) is None
    assert second.admit(limits) is not None
    second.leave(limits)
    assert limits.open == 1
    first.leave(limits)
    first.leave(limits)
    assert limits.open == 0
