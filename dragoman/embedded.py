"""The awaitable face of the broker for the program that embeds the mesh. Same semantics as over any wire.

Each subscription and each offer is a session of its own, so a slow reader in the program is held back like a
slow client: the broker keeps its place, not its messages.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final, Self, final

from dragoman.broker.principal import EMBEDDED
from dragoman.broker.subscription import Place, Start
from dragoman.routing.cards import Skill
from dragoman.routing.message import Envelope, Message
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.broker.broker import Broker
    from dragoman.broker.call import Call, Outcome
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.offers import Asked
    from dragoman.broker.principal import Principal
    from dragoman.broker.subscription import Feed

WINDOW: Final = 256
"""Messages a subscription holds for its reader; beyond it the broker keeps the place."""


Serve = Callable[[bytes], Awaitable[bytes]]
"""What answers a skill: arguments in, result out. Raise RefusedError to say no."""


class EmbeddedSession:
    """The program's own session: publishes, and calls."""

    protocol: Final = "embedded"

    def __init__(self, broker: Broker, agent: str = "") -> None:
        self.broker = broker
        self.principal: Principal = EMBEDDED
        self.agent = agent
        self._waiting: dict[Ticket, list[asyncio.Future[Refusal | None]]] = {}
        refusal = broker.attach(self)
        if refusal is not None:
            raise RefusedError(refusal)

    async def safe(self, ticket: Ticket) -> None:
        """Returns when the ticket of one of our publishes is committed; raises RefusedError if it failed."""
        if not ticket:
            return
        done: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(ticket, []).append(done)
        refusal = await done
        if refusal is not None:
            raise RefusedError(refusal)

    def deliver(self, feed: Feed, message: Message) -> bool:
        """This session subscribes to nothing."""
        return True

    def lost(self, feed: Feed, count: int) -> None:
        """This session subscribes to nothing."""

    def committed(self, ticket: Ticket) -> None:
        """Everything of ours up to ``ticket`` is safe."""
        for waits in [t for t in self._waiting if t <= ticket]:
            self._tell(waits, None)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """What waits for ``ticket`` has failed."""
        self._tell(ticket, refusal)

    def _tell(self, ticket: Ticket, outcome: Refusal | None) -> None:
        for done in self._waiting.pop(ticket, ()):
            if not done.done():
                done.set_result(outcome)

    def close(self, refusal: Refusal) -> None:
        """The mesh ends: whoever waits is told."""
        for ticket in list(self._waiting):
            self._tell(ticket, refusal)


@final
class Reading(EmbeddedSession):
    """A subscription: ``async for message in reading``, and ``async with`` ends it.

    ``lost_total`` counts messages that were gone before they could be read.
    """

    def __init__(self, broker: Broker, agent: str = "") -> None:
        super().__init__(broker, agent)
        self.lost_total = 0
        self._window: deque[Message] = deque()
        self._news = asyncio.Event()
        self._starved = False
        self._ended: Refusal | None = None

    def deliver(self, feed: Feed, message: Message) -> bool:
        """Holds a message for the reader, or keeps the broker waiting."""
        if len(self._window) >= WINDOW:
            self._starved = True
            return False
        self._window.append(message)
        self._news.set()
        return True

    def lost(self, feed: Feed, count: int) -> None:
        """A gap."""
        self.lost_total += count

    def close(self, refusal: Refusal) -> None:
        """The mesh ends this subscription: the reader gets what it holds, then the end."""
        super().close(refusal)
        self._ended = refusal
        self._news.set()

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        while not self._window:
            if self._starved:
                self._starved = False
                self.broker.resume(self)
                continue
            if self._ended is not None:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._window.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends the subscription. Idempotent."""
        self._ended = self._ended or Refusal(Reason.DISCONNECTED, "the subscription has ended")
        self._news.set()
        self.broker.detach(self)


@final
class Answering:
    """A call of the program's own, on its way. Implements the calls' ``Caller``."""

    def __init__(self, session: EmbeddedSession, on_part: Callable[[bytes], None] | None) -> None:
        self.session = session
        self._on_part = on_part
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def part(self, call: Call, payload: bytes, content_type: str | None) -> None:
        """A partial answer."""
        if self._on_part is not None:
            self._on_part(payload)

    def final(self, call: Call, outcome: Outcome) -> None:
        """The answer, or why there is none."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


@final
class Serving(EmbeddedSession):
    """A skill the program serves, until ``end``. Each call runs in a task of its own, which ends with this."""

    def __init__(self, broker: Broker, agent: str, skill: Skill, serve: Serve) -> None:
        super().__init__(broker, agent)
        self._serve = serve
        self._tasks: dict[str, asyncio.Task[None]] = {}
        number = broker.directory.arrive(self, agent, keeps=False)
        if isinstance(number, Refusal):
            broker.detach(self)
            raise RefusedError(number)
        offer = broker.directory.offer(self, agent, skill, self._ask, self._cancelled)
        if isinstance(offer, Refusal):
            self.end()
            raise RefusedError(offer)

    def _ask(self, call: Asked) -> bool:
        task = asyncio.get_running_loop().create_task(self._answer(call), name=f"serve {call.skill}")
        self._tasks[call.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(call.id, None))
        return True

    def _cancelled(self, call: Asked) -> None:
        task = self._tasks.get(call.id)
        if task is not None:
            task.cancel()

    async def _answer(self, call: Asked) -> None:
        try:
            result = await self._serve(call.arguments)
        except RefusedError as no:
            self.broker.calls.answer(self, call.id, b"", error=no.refusal)
        except Exception as error:
            # The program's own handler failed: its caller hears so, the program sees the traceback.
            self.broker.calls.answer(self, call.id, b"", error=f"{type(error).__name__}: {error}")
            raise
        else:
            self.broker.calls.answer(self, call.id, result)

    def close(self, refusal: Refusal) -> None:
        """The mesh ends: nothing is served any more."""
        super().close(refusal)
        self.end()

    def end(self) -> None:
        """Serves no more. Idempotent."""
        for task in list(self._tasks.values()):
            task.cancel()
        self.broker.directory.depart(self, clean=True, keeps=False)
        self.broker.detach(self)


class Face(ABC):
    """What the program that embeds a mesh says and hears."""

    def __init__(self) -> None:
        self._session: EmbeddedSession | None = None

    @property
    @abstractmethod
    def broker(self) -> Broker:
        """The broker of a started mesh."""

    async def publish(
        self,
        name: str,
        payload: bytes | None,
        *,
        durable: bool = True,
        retain: bool = False,
        envelope: Envelope | None = None,
        dedupe: str | None = None,
    ) -> Message:
        """Says something in a channel; the message, with its number and offset, when it is safe. Raises RefusedError.

        ``durable``: at least once, so a channel that logs answers after its commit; False: at most once.
        """
        session = self._own()
        message = Message(name, payload, int(durable), "", retain, envelope)
        answer = self.broker.publish(session, message, None if dedupe is None else ("embedded", dedupe))
        if isinstance(answer, Refusal):
            raise RefusedError(answer)
        await session.safe(answer)
        return message

    def subscribe(self, filter_: str, *, agent: str = "", start: Start | Place = Start.NEW) -> Reading:
        """Reads what matches: ``async with mesh.subscribe("a/#") as reading: async for message in reading``.

        With an ``agent`` id an exact subscription makes that agent a member. Raises RefusedError.
        """
        reading = Reading(self.broker, agent)
        subscription = self.broker.subscribe(reading, filter_, wish=1, start=start)
        if isinstance(subscription, Refusal):
            reading.end()
            raise RefusedError(subscription)
        return reading

    async def call(
        self,
        skill: str,
        arguments: bytes,
        *,
        agent: str | None = None,
        deadline_ms: int | None = None,
        on_part: Callable[[bytes], None] | None = None,
    ) -> bytes:
        """Asks an agent, or whoever serves the skill best, and waits for the one answer. Raises RefusedError.

        Cancelling the task that waits cancels the call.
        """
        caller = Answering(self._own(), on_part)
        call = self.broker.calls.start(caller, agent=agent, skill=skill, arguments=arguments, deadline_ms=deadline_ms)
        if isinstance(call, Refusal):
            raise RefusedError(call)
        try:
            outcome = await caller.outcome
        except asyncio.CancelledError:
            self.broker.calls.cancel(caller.session, call.id)
            raise
        if outcome.refusal is not None:
            raise RefusedError(outcome.refusal)
        assert outcome.payload is not None, "an outcome is an answer or a refusal"
        return outcome.payload

    def serve(self, skill: Skill | str, answer: Serve, *, agent: str) -> Serving:
        """Offers a skill as ``agent``: ``answer(arguments)`` is awaited for each call, several at once.

        Ends with ``end()`` or with the mesh. Raises RefusedError.
        """
        return Serving(self.broker, agent, skill if isinstance(skill, Skill) else Skill(skill), answer)

    def _own(self) -> EmbeddedSession:
        if self._session is None:
            self._session = EmbeddedSession(self.broker)
        return self._session
