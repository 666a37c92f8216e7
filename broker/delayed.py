"""``$delayed/{seconds}/{name}``: said now, heard in the channel ``name`` after so many seconds, as with EMQX.

What waits is a kept deadline (``timers``): a row in the log, by the wall clock, so it outlives mesh and publisher.
The gate judges the publisher when it says it and once more when it goes out; the rates of its user count it then.
What cannot go out for want of disk or rate tries again; what may not is dropped, counted and logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from heapq import nsmallest
from typing import TYPE_CHECKING, Final, NamedTuple, final

from dragoman.broker.gate import Action
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.log.contract import DONE, Ticket
from dragoman.broker.principal import EMBEDDED, Principal
from dragoman.broker.rows import Row, decode_message, decode_row, encode_message, encode_row
from dragoman.routing.message import Message
from dragoman.routing.names import check_name, shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.bans import Bans
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Subscription
    from dragoman.broker.timers import Timers

logger: Final = logging.getLogger("dragoman")

LEVEL: Final = "$delayed"
SECONDS_MAX: Final = 4_294_967
"""EMQX's: the most milliseconds that fit into 32 bits, 49 days."""
RETRY_MS: Final = 1_000

_KIND: Final = 1
"""Of its deadlines among all kept ones: on disk."""
_KEY: Final = b"delayed:"
_LATER: Final = frozenset(
    (Reason.STORAGE_FULL, Reason.STORAGE_FAILED, Reason.RATE_EXCEEDED, Reason.BUSY, Reason.SHUTTING_DOWN)
)


class DelayedRow(Row):
    """A message that waits, and whose it is. ``embedded``: the embedding program's, which no rule judges."""

    said_ms: int = 0
    principal: str = ""
    groups: tuple[str, ...] = ()
    agent: str = ""
    embedded: bool = False
    message: bytes = b""


class Waiting(NamedTuple):
    """A message that waits, for people. Times are wall clock; ``size`` is what it counts, in bytes."""

    id: str
    channel: str
    principal: str
    agent: str
    said_ms: int
    due_ms: int
    wish: int
    retain: bool
    size: int


@final
class Delayed:
    """All messages that wait for their time. A scheme (``scheme``): every name below ``$delayed`` is its."""

    def __init__(
        self,
        core: Core,
        timers: Timers,
        bans: Bans,
        judge: Callable[[Session, Action, str], Refusal | None],
        acts: Callable[[str], bool],
        say: Callable[[Session, Message], Ticket | Refusal],
        when_safe: Callable[[Ticket, Callable[[Refusal | None], None]], None],
    ) -> None:
        self._core = core
        self._timers = timers
        self._bans = bans
        self._judge = judge
        self._acts = acts
        self._say = say
        self._when_safe = when_safe
        self._next = 0
        self.count = 0
        self.bytes = 0
        self.taken_total = 0
        self.said_total = 0
        #: the principal of this name as it is configured now; None: it has the groups it had
        self.named: Callable[[str], Principal | None] = lambda name: None
        timers.on(_KIND, self._due)

    def start(self) -> None:
        """Counts what the log kept. After the timers have started, before the first of them runs."""
        for key, _, payload in self._timers.kept(_KIND):
            self._next = max(self._next, _number(key) + 1)
            self._counted(1, payload)

    # -- publishing ----------------------------------------------------------------------------------

    def takes(self, name: str) -> bool:
        """Every name there is of its level."""
        return True

    def publish(self, session: Session, message: Message) -> Ticket | Refusal:
        """Takes a message that is to wait; it is the mesh's when the ticket is safe, whatever its wish."""
        answer = self._take(session, message)
        if isinstance(answer, Refusal):
            self._core.metrics.refuse(answer.reason)
            return answer
        self.taken_total += 1
        if answer:
            self._core.commits.tell(answer, session)
        return answer

    def _take(self, session: Session, message: Message) -> Ticket | Refusal:
        asked = parse(message.name)
        if isinstance(asked, Refusal):
            return asked
        seconds, name = asked
        if self._acts(name):
            return Refusal(
                Reason.NAME_INVALID, f"{shown(name)} is no channel: only messages in channels can be delayed"
            )
        size, most = len(message.payload or b""), self._core.settings.message_bytes_max
        if size > most:
            return Refusal(Reason.TOO_LARGE, f"the payload has {size} bytes, broker.message_bytes_max is {most}")
        refusal = check_name(name) or self._judge(session, Action.PUBLISH, name)
        if refusal is not None:
            return refusal
        said = Message(name, message.payload, message.wish, session.agent, message.retain, message.envelope)
        row = DelayedRow(
            said_ms=self._core.now_ms,
            principal=session.principal.name,
            groups=tuple(session.principal.groups),
            agent=session.agent,
            embedded=session.principal is EMBEDDED,
            message=encode_message(said),
        )
        return self._keep(encode_row(row), seconds)

    def _keep(self, payload: bytes, seconds: int) -> Ticket | Refusal:
        settings = self._core.settings
        if self.count >= settings.delayed_max:
            detail = f"{self.count} messages wait, broker.delayed_max allows no more"
            return Refusal(Reason.QUOTA_EXCEEDED, detail)
        if self.bytes + len(payload) > settings.delayed_bytes_max:
            detail = f"{self.bytes} bytes of messages wait, broker.delayed_bytes_max is {settings.delayed_bytes_max}"
            return Refusal(Reason.QUOTA_EXCEEDED, detail)
        key = _KEY + self._next.to_bytes(8, "big")
        ticket = self._timers.keep(key, self._core.now_ms + seconds * 1000, _KIND, payload)
        if isinstance(ticket, Refusal):
            return ticket
        self._next += 1
        self._counted(1, payload)

        def settled(refusal: Refusal | None) -> None:
            # Its publisher is told that it was not taken, so it must not be said either.
            if refusal is not None and self._timers.forget(key) is not None:
                self._counted(-1, payload)

        self._when_safe(ticket, settled)
        return ticket

    # -- saying --------------------------------------------------------------------------------------

    def _due(self, key: bytes, payload: bytes) -> None:
        """Its time has come; its row goes with the commit that holds what is said."""
        self._counted(-1, payload)
        core = self._core
        core.tick()
        row = decode_row(payload, DelayedRow)
        message = decode_message(row.message)
        if message.expired(core.now_ms):
            core.metrics.drop("delayed-expired")
            return
        known = EMBEDDED if row.embedded else self.named(row.principal)
        principal = known or Principal(row.principal, frozenset(row.groups))

        def settled(_: Ticket, refusal: Refusal | None) -> None:
            if refusal is None:
                self.said_total += 1
            else:
                self._failed(key, payload, row, refusal)

        session = InnerSession(principal, row.agent, settled=settled)
        banned = self._bans.client(row.agent) or self._bans.principal(principal.name)
        answer = banned or self._say(session, message)
        if isinstance(answer, Refusal):
            self._failed(key, payload, row, answer)
        elif answer == DONE:
            self.said_total += 1

    def _failed(self, key: bytes, payload: bytes, row: DelayedRow, refusal: Refusal) -> None:
        if refusal.reason in _LATER:
            self._again(key, payload, max(RETRY_MS, refusal.retry_after_ms or 0))
            return
        self._core.metrics.drop(f"delayed-{refusal.reason.value}")
        about = {"agent": row.agent, "principal": row.principal, "reason": refusal.reason.value}
        logger.warning("delayed message not said: %s", refusal.detail, extra=about)

    def _again(self, key: bytes, payload: bytes, wait_ms: int) -> None:
        answer = self._timers.keep(key, self._core.now_ms + wait_ms, _KIND, payload)
        if isinstance(answer, Refusal):
            # Others have taken its place among the deadlines meanwhile.
            self._core.metrics.drop(f"delayed-{answer.reason.value}")
        else:
            self._counted(1, payload)

    def _counted(self, sign: int, payload: bytes) -> None:
        self.count += sign
        self.bytes += sign * len(payload)

    # -- for people ----------------------------------------------------------------------------------

    def listed(self, most: int) -> Iterator[Waiting]:
        """What goes out next, at most so many."""
        for key, due_ms, payload in nsmallest(most, self._timers.kept(_KIND), key=lambda kept: (kept[1], kept[0])):
            row = decode_row(payload, DelayedRow)
            said = decode_message(row.message)
            yield Waiting(
                f"{_number(key):x}",
                said.name,
                row.principal,
                row.agent,
                row.said_ms,
                due_ms,
                said.wish,
                said.retain,
                len(payload),
            )

    def cancel(self, id_: str) -> Ticket | Refusal:
        """It is never said; the ticket of that."""
        for key, _, payload in self._timers.kept(_KIND):
            if f"{_number(key):x}" == id_:
                self._counted(-1, payload)
                return self._timers.forget(key) or DONE
        return Refusal(Reason.GONE, f"no delayed message {shown(id_)} waits")

    # -- as a scheme: nothing is read here -----------------------------------------------------------

    def retained(self, filter_: str) -> Iterator[Message]:
        """None has a value."""
        return iter(())

    def permits(self, principal: Principal, agent: str, name: str) -> bool:
        """Nobody reads here, subscribes here or makes channels here."""
        return False

    def subscribed(self, subscription: Subscription) -> None:
        """Never told: nobody may."""

    def unsubscribed(self, subscription: Subscription) -> None:
        """Never told: nobody may."""


def parse(name: str) -> tuple[int, str] | Refusal:
    """(seconds, name) of ``$delayed/{seconds}/{name}``. The inner name is not checked."""
    _, _, rest = name.partition("/")
    text, slash, inner = rest.partition("/")
    if not (text.isascii() and text.isdigit()) or not slash or not inner:
        return Refusal(
            Reason.NAME_INVALID, f"what is delayed is said to {LEVEL}/{{seconds}}/{{topic}}, not {shown(name)}"
        )
    if len(text) > len(str(SECONDS_MAX)) or int(text) > SECONDS_MAX:
        return Refusal(Reason.NAME_INVALID, f"a message waits at most {SECONDS_MAX} seconds, not {shown(text)}")
    return int(text), inner


def _number(key: bytes) -> int:
    return int.from_bytes(key[len(_KEY) :], "big")
