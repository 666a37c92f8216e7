"""What every link is: attempts with growing pauses between them, one way in, one way out, and how it stands.

What an outside speaks is an ``Outside``: ``converse`` is one connection from its first byte to its end.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

from dragoman.adapters.links.intake import HeldError, Intake
from dragoman.adapters.links.naming import Naming
from dragoman.adapters.links.outlet import Outlet
from dragoman.adapters.links.state import Phase, Standing
from dragoman.broker.principal import Principal

if TYPE_CHECKING:
    from dragoman.adapters.links.settings import LinkSettings
    from dragoman.broker.broker import Broker
    from dragoman.routing.refusals import Refusal

logger: Final = logging.getLogger("dragoman.links")

FIRST_PAUSE_S: Final = 0.2
STEADY_S: Final = 5.0
"""A connection that lasted so long was a good one: the next pause is the shortest again."""

POLL_S: Final = 0.02


class LinkError(Exception):
    """The connection could not be made or has ended. The text says why, for the operator."""


class Outside(Protocol):
    """What one kind of outside is to its link."""

    @property
    def lag(self) -> int | None:
        """Messages that wait outside to be pulled, where that is known."""

    async def converse(self) -> None:
        """Connects, says ``link.up()``, carries messages both ways until it ends; ends by raising ``LinkError``."""


Make: TypeAlias = Callable[["Link"], Outside]


@final
class Link:
    """One configured link. ``start`` once, ``stop`` once."""

    def __init__(self, broker: Broker, settings: LinkSettings, mesh: str, make: Make) -> None:
        """``mesh``: this mesh's own id, the same for all its links."""
        self.broker = broker
        self.settings = settings
        self.mesh = mesh
        name = settings.name
        #: who says in the mesh what came by this link, and how it is kept from leaving by it
        self.sender = f"link:{name}"
        # Rules may speak of one link or of all; no credentials lead to it.
        principal = Principal(self.sender, frozenset(("links",)))
        self.standing = Standing(name, settings.address, broker.clock, broker.metrics)
        self.pulls = [Naming(settings.kind, route.filter, route.to, "mesh") for route in settings.pull]
        self.intake = Intake(
            broker,
            self.standing,
            sender=self.sender,
            principal=principal,
            mesh=mesh,
            hops_max=settings.hops_max,
        )
        pushes = [Naming("mesh", route.filter, route.to, settings.kind) for route in settings.push]
        self.outlet = Outlet(
            broker,
            self.standing,
            pushes,
            principal=principal,
            sender=self.sender,
            mesh=mesh,
            hops_max=settings.hops_max,
            window=settings.window,
        )
        self._outside = make(self)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to keep what is to go out, and to connect."""
        self.outlet.open()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"link {self.settings.name}")

    def up(self, far: str = "") -> None:
        """Told by the outside: messages can go over. ``far``: which mesh it is, if it is one and says so."""
        if far == self.mesh:
            raise LinkError("the outside is this very mesh")
        self.standing.up()
        self.intake.far = far
        self.outlet.begin(far)

    def hush(self) -> None:
        """Takes no more from either side; what is on its way is finished."""
        self.intake.hush()
        self.outlet.hush()

    async def stop(self, deadline_s: float) -> None:
        """Waits until what is on its way is acknowledged, at most so long; then disconnects. The place is kept."""
        self.hush()
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        while self._busy() and loop.time() < until:  # noqa: ASYNC110 - both sides drain, and this happens once
            await asyncio.sleep(POLL_S)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self.standing.stopped()
        self.outlet.shut()

    def _busy(self) -> bool:
        return self.standing.phase is Phase.UP and bool(self.intake.waiting or self.outlet.open_count)

    def report(self) -> dict[str, object]:
        """How it stands, for people."""
        standing, settings = self.standing, self.settings
        return {
            "name": settings.name,
            "kind": settings.kind,
            "address": settings.address,
            "state": standing.phase.value,
            "since_ms": standing.since_ms,
            "error": standing.error,
            "error_ms": standing.error_ms,
            "connects": standing.connects,
            "pulled": standing.pulled,
            "pull_waiting": self.intake.waiting,
            "pull_lag": self._outside.lag,
            "pushed": standing.pushed,
            "push_waiting": self.outlet.open_count,
            "push_lag": self.outlet.lag,
            "duplicates": standing.duplicates,
            "dropped": dict(standing.dropped),
        }

    # -- connecting ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while True:
            began = loop.time()
            why = await self._attempt()
            self.standing.down(why)
            pause_s = FIRST_PAUSE_S if loop.time() - began >= STEADY_S else pause_s
            # Not all links of all meshes at the very moment an outside comes back.
            await asyncio.sleep(min(pause_s, self.settings.retry_s_max) * random.uniform(0.75, 1.0))
            pause_s = min(pause_s * 2, max(self.settings.retry_s_max, FIRST_PAUSE_S))

    async def _attempt(self) -> str:
        """One connection from its beginning to its end, and why it ended."""
        self.standing.connecting()
        failed = self.intake.begin()
        talk = asyncio.get_running_loop().create_task(self._outside.converse(), name=f"link {self.settings.name} talk")
        try:
            await asyncio.wait((talk, failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            talk.cancel()
            await asyncio.wait((talk,))
            if not talk.cancelled():
                talk.exception()  # looked at, also where nobody asks any more
            self.outlet.end()
        return self._why(talk, failed)

    def _why(self, talk: asyncio.Task[None], failed: asyncio.Future[Refusal]) -> str:
        if failed.done():
            failure: BaseException | None = None if talk.cancelled() else talk.exception()
            return f"what was pulled cannot be kept: {failed.result().detail}"
        if talk.cancelled():
            return "the connection ended"
        failure = talk.exception()
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        match failure:
            case None:
                return "the outside ended the connection"
            case LinkError():
                return str(failure)
            case HeldError():
                return f"what was pulled cannot be kept: {failure}"
            case OSError():
                return failure.strerror or str(failure) or type(failure).__name__
        # The link's own mistake or its library's: it costs the connection, and the operator sees where.
        why = f"a fault of ours: {type(failure).__name__}: {failure}"
        if why != self.standing.error:
            logger.error("link %s failed", self.settings.name, exc_info=failure)
        return why
