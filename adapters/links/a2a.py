"""An outside A2A agent as an agent of the mesh: its card is ours, and a call is a message that begins a task.

The pieces of its artifacts are parts of an answer, all of them are the answer; failed and rejected tasks are
failures; a call given up here is cancelled there. A message is sent once; what a broken stream did not tell is
asked for.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, final

import aiohttp

from dragoman.adapters.links.a2a_cards import VERSION, card_of
from dragoman.adapters.links.a2a_wire import CONNECT_S, FAULTS, FarError, Wire, read_card
from dragoman.adapters.links.link import LinkError
from dragoman.adapters.links.party import Party, Told
from dragoman.adapters.serving.a2a_following import Following
from dragoman.adapters.serving.a2a_forms import FormError, message_of
from dragoman.adapters.serving.answers import Answer
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.links.a2a_cards import Read
    from dragoman.adapters.links.link import Link
    from dragoman.broker.offers import Asked

REFRESH_S: Final = 15.0
"""The card is read again so often: how an agent that went silently is noticed."""

POLL_FIRST_S: Final = 0.1
POLL_MAX_S: Final = 2.0

GOODBYE_S: Final = 1.0
"""What was asked when the link ends gets so long to be cancelled over there."""


@final
class A2aOutside:
    """One A2A agent. ``converse`` lasts as long as its card can be read."""

    lag: Final = None

    def __init__(self, link: Link) -> None:
        self._link = link
        self._party = Party(link, "a2a", self._answer)
        self._wire: Wire | None = None
        self._look = asyncio.Event()
        self._goodbyes: set[asyncio.Task[None]] = set()

    async def converse(self) -> None:
        """Reads the card, offers its skills, and keeps them as the agent has them until it is gone."""
        async with self._web() as web:
            try:
                given, etag = await read_card(web, self._link.settings.address, "")
                read = self._read(given)
                self._wire = Wire(web, read.interface)
                self._party.arrive(read.card)
                try:
                    self._party.serve(list(read.card.skills))
                    self._link.up()
                    await self._follow(web, etag)
                finally:
                    self._party.leave()
                    await self._part()
                    self._wire = None
            except FAULTS as error:
                raise LinkError(_sentence(error)) from error

    def _web(self) -> aiohttp.ClientSession:
        settings = self._link.settings
        # Nothing is unpacked that is small on the wire and large in memory.
        headers = {"A2A-Version": VERSION, "Accept-Encoding": "identity"}
        if settings.password:
            headers["Authorization"] = f"Bearer {settings.password}"
        verify = ssl.create_default_context(cafile=settings.ca or None) if settings.tls else True
        return aiohttp.ClientSession(
            headers=headers,
            # A stream may be silent for long; each other request has a bound of its own.
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S),
            # Calls have the link's window as their bound, and reading the card must not wait for them.
            connector=aiohttp.TCPConnector(ssl=verify, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def _follow(self, web: aiohttp.ClientSession, etag: str) -> None:
        while True:
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            given, etag = await read_card(web, self._link.settings.address, etag)
            if given is not None:
                read = self._read(given)
                self._wire = Wire(web, read.interface)
                self._party.tell(read.card)
                self._party.serve(list(read.card.skills))

    def _read(self, given: object) -> Read:
        settings = self._link.settings
        read = card_of(given, self._party.agent, settings.address, secret=bool(settings.password))
        self._party.complain(read.faults)
        return read

    async def _part(self) -> None:
        """Nobody waits any more for what was asked: so far as it can be, it is cancelled there."""
        await self._party.left()
        if self._goodbyes:
            _, late = await asyncio.wait(self._goodbyes, timeout=GOODBYE_S)
            for goodbye in late:
                goodbye.cancel()
            if late:
                await asyncio.wait(late)

    # -- calls ---------------------------------------------------------------------------------------

    async def _answer(self, asked: Asked, told: Told) -> Answer:
        wire = self._wire
        assert wire is not None, "who is not there is not asked"
        following = Following()
        begun = asyncio.Event()
        asking = asyncio.get_running_loop().create_task(
            self._ask(wire, asked, told, following, begun), name=f"a2a ask {asked.id}"
        )
        try:
            answer = await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._bid(_give_up(wire, following, begun, asking))
            raise
        except FarError as error:
            return Answer(b"", failure=Refusal(error.reason, f"the A2A agent says {error}"))
        except FAULTS as error:
            # Is the agent still there? Its card will show.
            self._look.set()
            if following.task:
                self._bid(_cancel(wire, following.task))
            return Answer(b"", failure=Refusal(Reason.FAILED, f"the A2A agent: {_sentence(error)}"))
        if following.asks:
            self._bid(_cancel(wire, following.task))
        self._link.standing.pulled += 1
        limit = self._link.broker.settings.message_bytes_max
        if len(answer.payload) > limit:
            detail = f"the answer has {len(answer.payload)} bytes, at most {limit} are carried"
            return Answer(b"", failure=Refusal(Reason.TOO_LARGE, detail))
        return answer

    async def _ask(self, wire: Wire, asked: Asked, told: Told, following: Following, begun: asyncio.Event) -> Answer:
        left_ms = asked.deadline_ms - self._link.broker.clock.now_ms()
        message = message_of(asked, left_ms)
        if wire.interface.streams:
            async with aclosing(wire.stream(message)) as items:
                async for item in items:
                    for piece in following.take(item):
                        told(piece.payload, piece.content_type)
                    begun.set()
                    if following.ended is not None:
                        return following.ended
        else:
            # The mesh ends the call at its deadline; this only sees to it that nothing is left behind.
            following.take(await wire.send(message, max(0, left_ms) / 1000 + CONNECT_S))
            begun.set()
        pause_s = POLL_FIRST_S
        while following.ended is None:
            if not following.task:
                raise FormError("it answered with neither a message nor a task")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, POLL_MAX_S)
            following.snapshot(await wire.task(following.task))
        return following.ended

    def _bid(self, goodbye: Coroutine[None, None, None]) -> None:
        """Says it beside whatever was given up."""
        task = asyncio.get_running_loop().create_task(goodbye, name=f"link {self._link.settings.name} goodbye")
        self._goodbyes.add(task)
        task.add_done_callback(self._goodbyes.discard)


async def _give_up(wire: Wire, following: Following, begun: asyncio.Event, asking: asyncio.Task[Answer]) -> None:
    """The task may not have its name yet: it is heard out so far, or it could not be cancelled."""
    knowing = asyncio.get_running_loop().create_task(begun.wait(), name="a2a task begun")
    try:
        await asyncio.wait((knowing, asking), timeout=CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
        if following.task and following.ended is None:
            await _cancel(wire, following.task)
    finally:
        knowing.cancel()
        asking.cancel()
        await asyncio.wait((asking, knowing))
        if not asking.cancelled():
            asking.exception()  # nobody asks any more


async def _cancel(wire: Wire, task: str) -> None:
    try:
        await wire.cancel(task)
    except (*FAULTS, RuntimeError):  # aiohttp's word for a session that is closed
        pass  # it has ended, or its agent has


def _sentence(error: BaseException) -> str:
    usual = "it does not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return str(error)[:1000] or usual
