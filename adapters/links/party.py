"""An outside server as an agent of the mesh: there while the server is, with its skills, asked in its own protocol.

What kind of server it is, its ``Answering`` knows. A call is never made twice: one whose connection ends has failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, final

from dragoman.adapters.links.link import LinkError
from dragoman.adapters.serving.answers import Answer
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.links.link import Link
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.offers import Asked, Offer
    from dragoman.broker.principal import Principal
    from dragoman.broker.subscription import Feed
    from dragoman.routing.cards import Card, Skill
    from dragoman.routing.message import Message

Told: TypeAlias = Callable[[bytes, str | None], None]
"""Takes a partial answer."""

Answering: TypeAlias = Callable[["Asked", Told], Awaitable[Answer]]
"""Asks the server. Cancelled when nobody waits any more, or the server has gone."""


@final
class Presence:
    """The server's agent in the mesh. Implements ``broker.session.Session``; nothing is delivered to it."""

    __slots__ = ("agent", "principal", "protocol")

    def __init__(self, principal: Principal, agent: str, protocol: str) -> None:
        self.principal = principal
        self.agent = agent
        self.protocol = protocol

    def deliver(self, feed: Feed, message: Message) -> bool:
        """It subscribes to nothing."""
        raise AssertionError(f"{message.id} of {feed.name!r} for a party that subscribes to nothing")

    def lost(self, feed: Feed, count: int) -> None:
        """It subscribes to nothing."""

    def committed(self, ticket: Ticket) -> None:
        """It publishes nothing."""

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """It publishes nothing."""

    def close(self, refusal: Refusal) -> None:
        """The mesh ends: the link is stopped beside this."""


@final
class Party:
    """One server's agent. ``arrive`` and ``leave`` once a connection; ``serve`` in between, as often as it changes."""

    def __init__(self, link: Link, protocol: str, answering: Answering) -> None:
        settings = link.settings
        self.presence = Presence(link.outlet.principal, settings.agent or settings.name, protocol)
        self._link = link
        self._directory = link.broker.directory
        self._answering = answering
        self._here = False
        self._offers: dict[str, Offer] = {}
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._told: list[str] = []

    @property
    def agent(self) -> str:
        """Its id in the mesh."""
        return self.presence.agent

    def arrive(self, card: Card) -> None:
        """The server is there. Raises ``LinkError`` if it cannot be the agent it is configured to be."""
        presence = self.presence
        arrived = self._directory.arrive(presence, presence.agent, keeps=False)
        if isinstance(arrived, Refusal):
            raise LinkError(f"it cannot be the agent {presence.agent!r}: {arrived.detail}")
        self._here = True
        self.tell(card)
        self._directory.set_limit(presence.agent, self._link.settings.window)

    def tell(self, card: Card) -> None:
        """This is what it says of itself now; its skills come by being served."""
        presence = self.presence
        registered = self._directory.register(
            presence.principal, presence.agent, card, lease_ms=None, via=presence.protocol
        )
        if isinstance(registered, Refusal):
            self.complain([registered.detail])

    def leave(self) -> None:
        """The server has gone, and with it whatever it was asked."""
        self._here = False
        self._offers.clear()
        for task in self._calls.values():
            task.cancel()
        self._directory.depart(self.presence, clean=False, keeps=False)

    async def left(self) -> None:
        """Waits until nobody is asking the server any more, once it has left."""
        if self._calls:
            await asyncio.wait(list(self._calls.values()))

    def serve(self, skills: list[Skill]) -> None:
        """Offers exactly these skills. One that is as it was stays as it is."""
        wanted = {skill.name: skill for skill in skills}
        for name, offer in list(self._offers.items()):
            if wanted.get(name) != offer.skill:
                self._directory.withdraw(self._offers.pop(name))
        faults = []
        for name, skill in wanted.items():
            if name in self._offers:
                continue
            offered = self._directory.offer(self.presence, self.agent, skill, self._ask, self._cancelled)
            if isinstance(offered, Refusal):
                faults.append(f"{name!r} is no skill: {offered.detail}")
            else:
                self._offers[name] = offered
        self.complain(faults)

    def complain(self, faults: list[str]) -> None:
        """Says each fault once, not at every look."""
        for fault in faults:
            if fault not in self._told:
                self._told = [*self._told, fault][-64:]
                self._link.standing.complain(fault)

    # -- calls ---------------------------------------------------------------------------------------

    def _ask(self, asked: Asked) -> bool:
        if not self._here:
            return False
        task = asyncio.get_running_loop().create_task(
            self._call(asked), name=f"link {self._link.settings.name} call {asked.id}"
        )
        self._calls[asked.id] = task
        task.add_done_callback(lambda _: self._calls.pop(asked.id, None))
        return True

    def _cancelled(self, asked: Asked) -> None:
        task = self._calls.get(asked.id)
        if task is not None:
            task.cancel()

    async def _call(self, asked: Asked) -> None:
        calls = self._link.broker.calls

        def told(payload: bytes, content_type: str | None) -> None:
            calls.answer(self.presence, asked.id, payload, content_type=content_type, partial=True)

        answer = await self._answering(asked, told)
        calls.answer(self.presence, asked.id, answer.payload, content_type=answer.content_type, error=answer.failure)
