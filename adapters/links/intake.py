"""What a link pulls in: said in the mesh like anything else, acknowledged outside once it is safe here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias, final

from dragoman.adapters.links.loops import further, went_round
from dragoman.broker.inner_session import InnerSession
from dragoman.routing.message import EMPTY, Message
from dragoman.routing.origins import once
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.links.state import Standing
    from dragoman.broker.broker import Broker
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.principal import Principal

PAUSE_S: Final = 0.02
"""Between two looks whether the log takes more again."""

RETRY_S_MAX: Final = 5.0

Done: TypeAlias = Callable[[], object]

_LATER: Final = frozenset((Reason.RATE_EXCEEDED, Reason.BUSY))
_NOT_NOW: Final = frozenset((Reason.STORAGE_FULL, Reason.STORAGE_FAILED, Reason.SHUTTING_DOWN))


class HeldError(Exception):
    """The mesh cannot keep what was pulled. The connection ends, so that the outside says it again later."""


@final
class Intake:
    """One link's publishing side. ``waiting`` messages are said and not yet safe.

    ``take`` waits while the mesh is saturated or asks for patience, so a link that awaits it stops reading.
    """

    def __init__(
        self, broker: Broker, standing: Standing, *, sender: str, principal: Principal, mesh: str, hops_max: int
    ) -> None:
        self._broker = broker
        self._standing = standing
        self._mesh = mesh
        self._hops_max = hops_max
        self._session = InnerSession(principal, sender, settled=self._settled)
        self._waiting: dict[Ticket, list[Done]] = {}
        self._failed: asyncio.Future[Refusal] | None = None
        self._progress = asyncio.Event()
        self._hushed = False
        self.waiting = 0
        #: takes back the rows put ``beside``, when a commit has failed
        self.undo: Done | None = None
        #: the mesh that the outside is, once it has said so
        self.far = ""

    def hush(self) -> None:
        """Takes no more, though it still hears what becomes safe."""
        self._hushed = True

    def begin(self) -> asyncio.Future[Refusal]:
        """A connection begins. The future: a commit has failed since."""
        self._failed = asyncio.get_running_loop().create_future()
        return self._failed

    async def take(
        self,
        message: Message,
        done: Done,
        *,
        beside: Done | None = None,
        most: int = 0,
    ) -> None:
        """Says a message here; ``done`` is called once it is safe, or will never be wanted. Raises HeldError.

        ``beside``  puts state rows that belong to it into its own commit
        ``most``    waits first until fewer than so many are waiting; 0 = no bound
        """
        while most and self.waiting >= most:
            self._progress.clear()
            await self._progress.wait()
        while self._hushed or self._broker.saturated:  # noqa: ASYNC110 - the log tells nobody that it has room again
            await asyncio.sleep(PAUSE_S)
        envelope = message.envelope or EMPTY
        why = went_round(envelope, self._mesh, self._hops_max)
        if why is None and self._broker.acts(message.name):
            why = "link-name"
        if why is not None:
            self._drop(why, done, beside)
            return
        message.envelope = further(envelope, self.far)
        await self._say(message, once(envelope, message.name), done, beside)

    async def _say(self, message: Message, dedupe: tuple[str, str] | None, done: Done, beside: Done | None) -> None:
        while True:
            duplicates = self._broker.metrics.duplicates
            answer = self._broker.publish(self._session, message, dedupe)
            if not isinstance(answer, Refusal):
                break
            if answer.reason in _NOT_NOW:
                raise HeldError(answer.detail)
            if answer.reason not in _LATER:
                self._drop(f"link-{answer.reason.value}", done, beside)
                return
            await asyncio.sleep(min((answer.retry_after_ms or 100) / 1000, RETRY_S_MAX))
        if self._broker.metrics.duplicates > duplicates:
            self._standing.duplicates += 1
        else:
            self._standing.pulled += 1
        if beside is not None:
            beside()
        if answer:
            self._waiting.setdefault(answer, []).append(done)
            self.waiting += 1
        else:
            done()

    def _drop(self, reason: str, done: Done, beside: Done | None) -> None:
        self._standing.drop(reason)
        if beside is not None:
            beside()
        done()

    def _settled(self, ticket: Ticket, refusal: Refusal | None) -> None:
        if refusal is not None:
            if self.undo is not None:
                self.undo()
            if self._failed is not None and not self._failed.done():
                self._failed.set_result(refusal)
            self.waiting -= len(self._waiting.pop(ticket, ()))
            return
        for safe in sorted(t for t in self._waiting if t <= ticket):
            calls = self._waiting.pop(safe)
            self.waiting -= len(calls)
            for done in calls:
                done()
        self._progress.set()
