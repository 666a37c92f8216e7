"""Wills: what a client has the mesh say when its connection has ended badly (§3.1.2.5).

A will is a row in the log from the turn of its CONNACK on, whatever becomes of the session, and its row goes in
the commit that holds what it says. So a mesh that dies says it after its restart, once, as if every
connection had broken there. The CONNACK does not wait for that row: commits are in order, so
whatever of the client's is safe later stands on a will that is safe as well.

A will that the disk or a rate has refused is said again later, for as long as it means something: not beyond
its message expiry, not for ever, and not once its client is here again. Its row stays until it is said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.mqtt import mapping
from dragoman.adapters.mqtt.packets import Will
from dragoman.broker.log.contract import Table, Ticket
from dragoman.broker.principal import Principal
from dragoman.broker.rows import Row, decode_row, encode_row
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.broker import Broker
    from dragoman.broker.subscription import Feed
    from dragoman.broker.timers import Timer
    from dragoman.routing.message import Message

logger: Final = logging.getLogger("dragoman.mqtt")

RETRY_MS: Final = 1_000
RETRY_MS_MAX: Final = 60_000
"""How long a will that was refused waits for the next try; twice as long each time, up to this."""

_DOUBLINGS: Final = 6

Named = Callable[[str], Principal | None]
"""The principal of this name as it is configured now; None for a name that no configuration could have."""


class WillRow(Row):
    """A will not said yet. ``due_ms``: wall clock; 0 = its connection had not ended when this was written."""

    client_id: str = ""
    principal: str = ""
    groups: tuple[str, ...] = ()
    agent: str = ""
    topic: bytes = b""
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    properties: bytes = b""
    delay_s: int = 0
    expiry_s: int = -1
    due_ms: int = 0


@final
class HeldWill:
    """A will and who says it: the broker's session of a client that has none any more.

    ``timer``   it waits for it; ``due_ms`` wall clock, 0 = its connection has not ended
    ``tried``   how often it was refused, ``since_ms`` from when on: the wall clock of the first time
    ``settled`` hears how the commit has ended that holds what it said
    """

    __slots__ = ("agent", "client_id", "due_ms", "key", "principal", "settled", "since_ms", "timer", "tried", "will")

    protocol: Final = "mqtt"

    def __init__(
        self,
        key: bytes,
        client_id: str,
        will: Will,
        principal: Principal,
        agent: str,
        settled: Callable[[HeldWill, Refusal | None], None],
    ) -> None:
        self.key = key
        self.client_id = client_id
        self.will = will
        self.principal = principal
        self.agent = agent
        self.settled = settled
        self.due_ms = 0
        self.since_ms = 0
        self.tried = 0
        self.timer: Timer | None = None

    def row(self) -> WillRow:
        """What survives a restart."""
        will = self.will
        return WillRow(
            client_id=self.client_id,
            principal=self.principal.name,
            groups=tuple(self.principal.groups),
            agent=self.agent,
            topic=will.topic,
            payload=will.payload,
            qos=will.qos,
            retain=will.retain,
            properties=will.properties,
            delay_s=will.delay,
            expiry_s=will.expiry,
            due_ms=self.due_ms,
        )

    def deliver(self, feed: Feed, message: Message) -> bool:
        """Never asked: it subscribes to nothing."""
        raise AssertionError(f"{message.id} for the will of {self.client_id!r}")

    def lost(self, feed: Feed, count: int) -> None:
        """Never told: it reads nothing."""

    def committed(self, ticket: Ticket) -> None:
        """What it said is safe."""
        self.settled(self, None)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """What it said could not be made safe, so nobody hears it."""
        self.settled(self, refusal)

    def close(self, refusal: Refusal) -> None:
        """Never asked: it is not attached."""
        raise AssertionError(f"there is nothing to close: {refusal}")


@final
class Wills:
    """Every will not said yet, by the key of its client's session. Nothing is written for clients without one.

    ``retry_s``: how long a will that was refused is tried again; 0 = not at all.
    """

    def __init__(self, broker: Broker, named: Named, *, format_check: bool, retry_s: int) -> None:
        self._broker = broker
        self._named = named
        self.format_check = format_check
        self.retry_ms = retry_s * 1000
        self.held: dict[bytes, HeldWill] = {}
        #: said in a commit that is under way, unless the client has come back since
        self._unsafe: dict[bytes, HeldWill] = {}
        #: those a rate has refused stand in a line, which is as long as from now to then (wall clock)
        self._line_ms = 0

    def load(self, left_s: Mapping[str, int]) -> None:
        """Takes up what the log kept. ``left_s``: how long each kept session has to live from now on, by client id.

        A session that was not kept has ended with the mesh.
        """
        now_ms = self._broker.clock.now_ms()
        for key, value in list(self._broker.log.rows(Table.WILLS)):
            row = decode_row(value, WillRow)
            will = Will(row.topic, row.payload, row.qos, row.retain, row.properties, row.delay_s, row.expiry_s)
            # By its name as configured now; whom no configuration could name has the groups it had.
            principal = self._named(row.principal) or Principal(row.principal, frozenset(row.groups))
            held = self.held[key] = HeldWill(key, row.client_id, will, principal, row.agent, self._settled)
            held.due_ms = row.due_ms
            if not row.due_ms:
                held.due_ms = now_ms + min(will.delay, left_s.get(row.client_id, 0)) * 1000
                self._save(held)
        for held in sorted(self.held.values(), key=lambda held: held.due_ms):
            self._wait(held, held.due_ms)

    def begin(self, key: bytes, client_id: str, will: Will | None, principal: Principal, agent: str) -> None:
        """A connection begins, with a will or without. What its client has left unsaid until now is said.

        Now or never: later it would say of a client that is here that it has gone.
        """
        before = self.held.get(key)
        if before is not None:
            self._say(before, last=True)
        self._unsafe.pop(key, None)
        if will is not None:
            held = self.held[key] = HeldWill(key, client_id, will, principal, agent, self._settled)
            self._save(held)

    def resumed(self, key: bytes) -> None:
        """The client goes on with its session: a will that still waits for its delay is not said [3.1.3-9]."""
        held = self.held.get(key)
        if held is not None and held.due_ms > self._broker.clock.now_ms():
            self._drop(held)

    def parted(self, key: bytes, session_s: int, *, clean: bool, resumed: bool) -> None:
        """The connection is over. ``session_s``: how long its session outlives it, 0 = not at all.

        ``clean``: with a goodbye, so it is not said. ``resumed``: another connection goes on with the session at once.
        """
        held = self.held.get(key)
        if held is None:
            return
        delay_s = min(held.will.delay, session_s)
        if clean or (delay_s and resumed):
            self._drop(held)
        elif delay_s:
            self._wait(held, self._broker.clock.now_ms() + delay_s * 1000)
            self._save(held)
        else:
            self._say(held)

    def session_over(self, key: bytes) -> None:
        """The session has ended: a will that waits for its delay waits no longer (§3.1.3.2.2)."""
        held = self.held.get(key)
        if held is not None and held.timer is not None:
            self._say(held)

    # -- within --------------------------------------------------------------------------------------

    def _wait(self, held: HeldWill, due_ms: int) -> None:
        held.due_ms = due_ms
        held.timer = self._broker.timers.after(due_ms - self._broker.clock.now_ms(), self._say, held)

    def _say(self, held: HeldWill, *, last: bool = False) -> None:
        """Publishes it; the gate judges it now, like any publish of its client. Its row goes in the same commit."""
        core = self._broker.core
        if core.stopping:
            # Nothing is published any more: it stays in the log for the next start.
            return
        core.tick()
        held.since_ms = held.since_ms or core.now_ms
        message = mapping.will_message(held.will, held.agent, held.since_ms)
        refusal = mapping.misformed(message) if self.format_check else None
        answer = self._broker.publish(held, message) if refusal is None else refusal
        if isinstance(answer, Refusal):
            self._failed(held, answer, last=last)
            return
        self._drop(held)
        channel = self._broker.channels.by_number.get(message.number)
        if answer and (channel is None or message.offset >= channel.visible):
            # Nobody has heard it yet: only its commit shows it.
            self._unsafe[held.key] = held

    def _settled(self, held: HeldWill, refusal: Refusal | None) -> None:
        waited = self._unsafe.get(held.key) is held
        if waited:
            del self._unsafe[held.key]
        if refusal is not None and not self._broker.core.stopping:
            self._failed(held, refusal, last=not waited)

    def _failed(self, held: HeldWill, refusal: Refusal, *, last: bool) -> None:
        """It was refused: it waits for another try, or it is given up and the operator is told."""
        now_ms = self._broker.core.now_ms
        wait_ms = max(min(RETRY_MS << min(held.tried, _DOUBLINGS), RETRY_MS_MAX), refusal.retry_after_ms)
        about = {"client": held.client_id, "reason": refusal.reason.value}
        left_ms = self.retry_ms
        if held.will.expiry >= 0:
            left_ms = min(left_ms, held.will.expiry * 1000)
        if last or refusal.reason not in mapping.PASSING or now_ms + wait_ms > held.since_ms + left_ms:
            if self.held.get(held.key) is held:
                self._drop(held)
            self._broker.metrics.drop(f"will-{refusal.reason.value}")
            logger.warning("mqtt will not said: %s", refusal.detail, extra=about)
            return
        if not held.tried:
            logger.warning("mqtt will not said yet: %s", refusal.detail, extra=about)
        held.tried += 1
        self.held[held.key] = held
        # Its row would go with the rows of the commit that has failed.
        self._save(held)
        if refusal.reason == Reason.RATE_EXCEEDED:
            wait_ms = min(wait_ms + self._in_line(now_ms, refusal.retry_after_ms), held.since_ms + left_ms - now_ms)
        held.timer = self._broker.timers.after(wait_ms, self._say, held)

    def _in_line(self, now_ms: int, step_ms: int) -> int:
        """How much later than alone one more is tried, or all would come at once, and a burst of them get through.

        The line is as long as the longest wait at most: behind it another one begins.
        """
        ahead_ms = max(0, self._line_ms - now_ms)
        if ahead_ms > RETRY_MS_MAX:
            ahead_ms = 0
        self._line_ms = now_ms + ahead_ms + min(step_ms, RETRY_MS)
        return ahead_ms

    def _drop(self, held: HeldWill) -> None:
        if held.timer is not None:
            held.timer.cancel()
        del self.held[held.key]
        self._broker.log.put(Table.WILLS, held.key, None)

    def _save(self, held: HeldWill) -> None:
        self._broker.log.put(Table.WILLS, held.key, encode_row(held.row()))
