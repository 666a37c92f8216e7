"""A real broker on a clock moved by hand, with groups and mailboxes; ``crashed`` is the next process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from dragoman.broker.broker import Broker
from dragoman.broker.clock import ManualClock
from dragoman.broker.gate import Gate
from dragoman.broker.gate_settings import GateSettings
from dragoman.broker.jobs import Delivery
from dragoman.broker.log.contract import Log, Ticket
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.metrics import Metrics
from dragoman.broker.principal import Principal
from dragoman.broker.settings import BrokerSettings
from dragoman.broker.settings_agents import AgentSettings
from dragoman.broker.settings_groups import GroupSettings
from dragoman.broker.subscription import Feed
from dragoman.broker.workgroup import WorkGroup
from dragoman.routing.message import Envelope, Message
from dragoman.routing.refusals import Refusal

ALICE = Principal("alice")
BOB = Principal("bob")
ROOT = Principal("root", admin=True)


class Party:
    """A session. Pushed messages are held until ``ack``; ``window`` is how many it takes unacknowledged."""

    def __init__(self, principal: Principal = ALICE, agent: str = "", window: int = 1_000) -> None:
        self.principal = principal
        self.agent = agent
        self.protocol = "test"
        self.window = window
        self.got: list[Message] = []
        self.flights: list[tuple[Feed, Message, int]] = []
        self.pulled: list[Any] = []
        self.safe = 0
        self.failed: list[Ticket] = []

    def deliver(self, feed: Feed, message: Message) -> bool:
        qos = min(feed.wish, message.wish)
        if len(self.flights) >= self.window:
            return False
        self.got.append(message)
        if qos:
            self.flights.append((feed, message, qos))
        return True

    def payloads(self) -> list[bytes | None]:
        return [message.payload for message in self.got]

    def lost(self, feed: Feed, count: int) -> None: ...

    def committed(self, ticket: Ticket) -> None:
        self.safe = ticket

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        self.failed.append(ticket)

    def close(self, refusal: Refusal) -> None: ...


class World:
    """One process of the mesh."""

    def __init__(
        self,
        log: Log | None = None,
        settings: GroupSettings | None = None,
        *,
        clock: ManualClock | None = None,
        gate: GateSettings | None = None,
        broker: BrokerSettings | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.settings = settings or GroupSettings()
        self.gate_settings = gate or GateSettings()
        self.broker_settings = broker or BrokerSettings(channel_idle_ms=0)
        self.log: Any = log if log is not None else MemoryLog(clock=self.clock)

    async def start(self) -> World:
        self.metrics = Metrics()
        self.broker = Broker(
            self.broker_settings,
            AgentSettings(),
            self.settings,
            clock=self.clock,
            log=self.log,
            gate=Gate(self.gate_settings),
            loop=asyncio.get_running_loop(),
            metrics=self.metrics,
        )
        self.timers = self.broker.timers
        self.groups = self.broker.groups
        self.mailboxes = self.broker.mailboxes
        await self.broker.start()
        self.writer = self.party(ALICE)
        await self.turn()
        return self

    async def crashed(self) -> World:
        """The next process: what was put in the log before is there, nothing else is."""
        await self.turn()
        self.timers.stop()
        if self.broker.backlogs._timer is not None:
            self.broker.backlogs._timer.cancel()
        if isinstance(self.log, MemoryLog):
            log: Any = self.log
            # The same rows and messages, for a process that has not opened them yet.
            log._loop = None
        else:
            await self.log.close()
            log = type(self.log)(self.log._settings, self.clock)
        following = World(log, self.settings, clock=self.clock, gate=self.gate_settings, broker=self.broker_settings)
        return await following.start()

    async def stopped(self) -> World:
        """The next process after an orderly end."""
        self.broker.backlogs.flush()
        return await self.crashed()

    def party(self, principal: Principal = ALICE, agent: str = "", window: int = 1_000) -> Party:
        party = Party(principal, agent, window)
        assert self.broker.attach(party) is None
        return party

    def leave(self, party: Party) -> None:
        self.broker.detach(party)

    def resume(self, party: Party) -> None:
        self.broker.resume(party)

    def ack(self, party: Party, count: int = 1_000_000) -> None:
        """The party's client acknowledges its oldest flights."""
        for _ in range(min(count, len(party.flights))):
            feed, message, _ = party.flights.pop(0)
            assert feed.group is not None
            feed.group.settled(message)
        self.resume(party)

    async def turn(self) -> None:
        """Until nothing is left to do now."""
        for _ in range(4):
            await self.log.idle()
            await asyncio.sleep(0)

    async def wait(self, ms: int) -> None:
        self.clock.advance(ms)
        while self.timers.run_due():
            pass
        await self.turn()

    def low(self) -> int:
        """The first position a durable reader still waits for."""
        backlogs = self.broker.backlogs._all.values()
        return min((backlog.low for backlog in backlogs), default=int(self.log.end()))

    async def say(self, name: str, *payloads: bytes, wish: int = 1, envelope: Envelope | None = None) -> list[Message]:
        messages = [Message(name, payload, wish, "", False, envelope) for payload in payloads]
        for message in messages:
            answer = self.broker.publish(self.writer, message)
            assert not isinstance(answer, Refusal), answer
        await self.turn()
        return messages

    def open(self, name: str = "crew", filter_: str = "jobs", **terms: Any) -> WorkGroup:
        group = self.groups.open(self.writer, name, filter_, **terms)
        assert isinstance(group, WorkGroup), group
        return group

    def pull(self, group: WorkGroup, party: Party, count: int = 10, **options: Any) -> list[Delivery]:
        """What there is now; what comes later arrives in ``party.pulled``."""
        answers: list[Any] = []

        def then(answer: Any) -> None:
            answers.append(answer)
            party.pulled.append(answer)

        refusal = group.pull(party, count, then, **options)
        assert not isinstance(refusal, Refusal), refusal
        group.check()
        return answers[0] if answers else []


def play(scene: Callable[[World], Coroutine[Any, Any, None]], world: Callable[[], World] = World) -> None:
    async def main() -> None:
        await scene(await world().start())

    asyncio.run(main())


def payloads(deliveries: list[Delivery]) -> list[bytes | None]:
    return [delivery.message.payload for delivery in deliveries]
