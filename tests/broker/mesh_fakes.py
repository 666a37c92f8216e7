"""A broker driven by hand: its loop, clock, log and sessions do nothing on their own.

``World`` is the broker with all of them; after each step ``check`` asserts every invariant of its rooms.
"""

from __future__ import annotations

import asyncio

from manual_log import FAILED, FakeLoop, ManualLog

from dragoman.broker.backlog import Backlog
from dragoman.broker.broker import Broker
from dragoman.broker.clock import ManualClock
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings
from dragoman.broker.log.contract import Log, Ticket
from dragoman.broker.log.ring import RING_OVERHEAD
from dragoman.broker.metrics import Metrics
from dragoman.broker.principal import Principal
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.broker.subscription import Feed, Subscription
from dragoman.routing.message import Bundle, Envelope, Message
from dragoman.routing.refusals import Refusal

ALICE = Principal("alice")
BOB = Principal("bob")

RING_MIN = 1 << 16
FITS = RING_MIN // (RING_OVERHEAD + 2 * 1_000)
"""Messages of 1,000 bytes that the smallest ring budget holds."""


LINES = 9
"""A kind of bundle: a message a line; one of "?" cannot be read."""


def open_lines(bundle: Bundle) -> list[Message]:
    if bundle.body == b"?":
        raise ValueError("nobody can read this")
    messages = []
    for index, line in enumerate(bundle.body.split(b"\n")):
        message = Message(bundle.name, line, 1, bundle.sender)
        message.number, message.time_ms = bundle.number, bundle.time_ms
        message.offset, message.position = bundle.offset + index, bundle.position + index
        messages.append(message)
    return messages


def bundle_of(channel, *lines: bytes) -> Bundle:
    return Bundle(channel.name, b"\n".join(lines), LINES, len(lines))


class Party:
    """A session that remembers, with credit given by hand. It holds the broker to its contract."""

    protocol = "test"

    def __init__(self, world: World, agent: str = "", principal: Principal = ALICE, credit: int = 1_000_000) -> None:
        self.world = world
        self.agent = agent
        self.principal = principal
        self.credit = credit
        self.got: list[Message] = []
        self.replayed: list[Message] = []
        self.lost_counts: list[int] = []
        self.safe_up_to = 0
        self.told = 0
        self.refusals: list[tuple[int, Refusal]] = []
        self.closed: Refusal | None = None
        self.backlog: Backlog | None = None
        self.attached = True
        self._starved: set[Feed] = set()
        self._replay_starved = False
        refusal = world.broker.attach(self)
        assert refusal is None, refusal

    @property
    def payloads(self) -> list[bytes | None]:
        return [message.payload for message in self.got]

    @property
    def offsets(self) -> list[int]:
        return [message.offset for message in self.got]

    def deliver(self, feed: Feed, message: Message) -> bool:
        assert self.attached, "delivered to a session that is gone"
        assert feed.session is self
        assert feed not in self._starved, "offered again without resume"
        assert not (feed.replay and self._replay_starved), "a replay went on without resume"
        if feed.no_local and message.sender == self.agent:
            return True
        if self.credit <= 0:
            if feed.replay:
                self._replay_starved = True
            else:
                self._starved.add(feed)
            return False
        self.credit -= 1
        if not feed.replay and feed.channel is not None:
            assert message.offset < feed.channel.visible, "seen before it was visible"
        (self.replayed if feed.replay else self.got).append(message)
        return True

    def lost(self, feed: Feed, count: int) -> None:
        self.lost_counts.append(count)

    def committed(self, ticket: Ticket) -> None:
        assert ticket > self.safe_up_to
        self.safe_up_to = ticket
        self.told += 1

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        self.refusals.append((ticket, refusal))

    def close(self, refusal: Refusal) -> None:
        self.closed = refusal

    # -- what a test does with it --------------------------------------------------------------------

    def give(self, credit: int) -> None:
        """Credit is back."""
        self.credit += credit
        self._starved.clear()
        self._replay_starved = False
        self.world.broker.resume(self)

    def read(self, filter_: str, **options: object) -> Subscription:
        subscription = self.world.broker.subscribe(self, filter_, **options)  # type: ignore[arg-type]
        assert isinstance(subscription, Subscription), subscription
        return subscription

    def say(
        self,
        name: str,
        payload: bytes | None = b"",
        *,
        wish: int = 0,
        retain: bool = False,
        dedupe: tuple[str, str] | None = None,
        expires_ms: int = 0,
    ) -> Ticket | Refusal:
        self.said = Message(name, payload, wish, "", retain, Envelope(expires_ms=expires_ms) if expires_ms else None)
        return self.world.broker.publish(self, self.said, dedupe)

    def end(self) -> None:
        self.world.broker.detach(self)
        self.attached = False


class Durable:
    """A durable reader with credit given by hand; keeps what it took until told to finish it."""

    def __init__(self, world: World, key: bytes, *filters: str, credit: int = 1_000_000) -> None:
        self.world = world
        self.credit = credit
        self.got: list[Message] = []
        self.backlog = world.broker.backlogs.open(key, self._offer)
        for filter_ in filters:
            self.backlog.watch(filter_)
        self.backlog.resume()
        world.loop.run()

    @property
    def payloads(self) -> list[bytes | None]:
        return [message.payload for message in self.got]

    def _offer(self, message: Message) -> bool:
        if self.credit <= 0:
            return False
        self.credit -= 1
        self.got.append(message)
        return True

    def give(self, credit: int) -> None:
        self.credit += credit
        self.backlog.resume()
        self.world.loop.run()

    def finish(self, *indices: int) -> None:
        for index in indices:
            self.backlog.finish(self.got[index].position)


class World:
    """The broker and all it stands on. ``log`` may be any log; ``ManualLog`` by default."""

    def __init__(
        self,
        settings: BrokerSettings | None = None,
        *,
        gate: GateSettings | None = None,
        log: Log | None = None,
        clock: ManualClock | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.loop = FakeLoop(self.clock)
        self._log: Log = log if log is not None else ManualLog()
        self.gate_settings = gate or GateSettings()
        self.settings = settings or BrokerSettings()
        self.metrics = Metrics()
        self.gate = Gate(self.gate_settings)
        self.broker = Broker(
            self.settings,
            AgentSettings(),
            clock=self.clock,
            log=self._log,
            gate=self.gate,
            loop=self.loop,
            metrics=self.metrics,
        )
        self.broker.core.bundles.add(LINES, open_lines)
        self.parties = 0
        asyncio.run(self._start())

    async def _start(self) -> None:
        starting = asyncio.ensure_future(self.broker.start())
        while not starting.done():
            await asyncio.sleep(0)
            self.loop.run()
            if isinstance(self._log, ManualLog):
                self._log.commit()
        starting.result()

    @property
    def log(self) -> ManualLog:
        assert isinstance(self._log, ManualLog)
        return self._log

    def after_crash(self) -> World:
        """The mesh started again on what was committed."""
        return World(self.settings, gate=self.gate_settings, log=self.log.crash(), clock=self.clock)

    def stopped(self) -> World:
        """The mesh stopped in good order and started again."""
        asyncio.run(self.broker.stop())
        return self.after_crash()

    def party(self, agent: str = "", principal: Principal = ALICE, credit: int = 1_000_000) -> Party:
        return Party(self, agent, principal, credit)

    def durable(self, key: bytes, *filters: str, credit: int = 1_000_000) -> Durable:
        return Durable(self, key, *filters, credit=credit)

    def channel(self, name: str):
        channel = self.broker.channels.find(name)
        assert channel is not None, f"no channel {name!r}"
        return channel

    def commit(self) -> None:
        """Commits all that waits and lets the loop come to rest."""
        self.loop.run()
        while self.log.commit():
            self.loop.run()
        self.check()

    def refuse(self, why: Refusal = FAILED) -> None:
        self.loop.run()
        self.log.refuse(why)
        self.loop.run()
        self.check()

    def advance(self, by_ms: int, step_ms: int = 0) -> None:
        """Time passes; the log keeps up."""
        for _ in range(max(1, by_ms // (step_ms or by_ms))):
            self.loop.advance(step_ms or by_ms)
            if isinstance(self._log, ManualLog):
                self.commit()

    def sweep(self, times: int = 1) -> None:
        """As many looks at idle channels as are due every ``sweep_ms``."""
        for _ in range(times):
            self.advance(self.settings.sweep_ms + 1)

    def check(self) -> None:
        """Every invariant of every room."""
        broker = self.broker
        channels = broker.channels.by_number.values()
        for channel in channels:
            channel.check()
        broker.channels.check()
        broker.core.commits.check(channels)
        broker.core.pump.check()
        broker.backlogs.check()
        broker.dedupe.check()
        broker.core.filters.check()
        broker.core.commits.names.check()
        assert broker.core.rings.used_bytes >= 0


def tight() -> World:
    """One whose rings hold next to nothing."""
    return World(BrokerSettings(ring_bytes_max=RING_MIN))


def words(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


__all__ = [
    "ALICE",
    "BOB",
    "FAILED",
    "FITS",
    "LINES",
    "RING_MIN",
    "Durable",
    "FakeLoop",
    "ManualLog",
    "Party",
    "World",
    "bundle_of",
    "tight",
    "words",
]
