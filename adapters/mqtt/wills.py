"""Wills: what a client has the mesh say when its connection has ended badly (§3.1.2.5).

A will is a row in the log from the turn of its CONNACK on, whatever becomes of the session, and its row goes in
the commit that holds what it says. So a mesh that dies says it after its restart, once, as if every
connection had broken there. The CONNACK does not wait for that row: commits are in order, so
whatever of the client's is safe later stands on a will that is safe as well.
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
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.broker.broker import Broker
    from dragoman.broker.subscription import Feed
    from dragoman.broker.timers import Timer
    from dragoman.routing.message import Message

logger: Final = logging.getLogger("dragoman.mqtt")

Named = Callable[[str], Principal | None]
"""The principal of this name as it is configured now; None if it is not configured."""


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
    """A will and who says it: the broker's session of a client that has none any more. ``timer``: it waits for it."""

    __slots__ = ("agent", "client_id", "due_ms", "key", "principal", "timer", "will")

    protocol: Final = "mqtt"

    def __init__(self, key: bytes, client_id: str, will: Will, principal: Principal, agent: str) -> None:
        self.key = key
        self.client_id = client_id
        self.will = will
        self.principal = principal
        self.agent = agent
        self.due_ms = 0
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

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """What it said could not be made safe, so nobody hears it: the operator is told."""
        logger.warning(
            "mqtt will not said: %s", refusal.detail, extra={"client": self.client_id, "reason": refusal.reason.value}
        )

    def close(self, refusal: Refusal) -> None:
        """Never asked: it is not attached."""
        raise AssertionError(f"there is nothing to close: {refusal}")


@final
class Wills:
    """Every will not said yet, by the key of its client's session. Nothing is written for clients without one."""

    def __init__(self, broker: Broker, named: Named, *, format_check: bool) -> None:
        self._broker = broker
        self._named = named
        self._format_check = format_check
        self.held: dict[bytes, HeldWill] = {}

    def load(self, left_s: Mapping[str, int]) -> None:
        """Takes up what the log kept. ``left_s``: how long each kept session has to live from now on, by client id.

        A session that was not kept has ended with the mesh.
        """
        now_ms = self._broker.clock.now_ms()
        for key, value in list(self._broker.log.rows(Table.WILLS)):
            row = decode_row(value, WillRow)
            will = Will(row.topic, row.payload, row.qos, row.retain, row.properties, row.delay_s, row.expiry_s)
            # By its name as configured now; whom nobody configures (a certificate's subject) has the groups it had.
            principal = self._named(row.principal) or Principal(row.principal, frozenset(row.groups))
            held = self.held[key] = HeldWill(key, row.client_id, will, principal, row.agent)
            held.due_ms = row.due_ms
            if not row.due_ms:
                held.due_ms = now_ms + min(will.delay, left_s.get(row.client_id, 0)) * 1000
                self._save(held)
        for held in sorted(self.held.values(), key=lambda held: held.due_ms):
            self._wait(held, held.due_ms)

    def begin(self, key: bytes, client_id: str, will: Will | None, principal: Principal, agent: str) -> None:
        """A connection begins, with a will or without. What its client has left unsaid until now is said."""
        before = self.held.get(key)
        if before is not None:
            self._say(before)
        if will is not None:
            held = self.held[key] = HeldWill(key, client_id, will, principal, agent)
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

    def _say(self, held: HeldWill) -> None:
        """Publishes it; the gate judges it now, like any publish of its client. Its row goes in the same commit."""
        if self._broker.core.stopping:
            # Nothing is published any more: it stays in the log for the next start.
            return
        self._broker.core.tick()
        message = mapping.will_message(held.will, held.agent, self._broker.core.now_ms)
        refusal = mapping.misformed(message) if self._format_check else None
        answer = self._broker.publish(held, message) if refusal is None else refusal
        self._drop(held)
        if isinstance(answer, Refusal):
            self._broker.metrics.drop(f"will-{answer.reason.value}")
            held.refused(Ticket(0), answer)

    def _drop(self, held: HeldWill) -> None:
        if held.timer is not None:
            held.timer.cancel()
        del self.held[held.key]
        self._broker.log.put(Table.WILLS, held.key, None)

    def _save(self, held: HeldWill) -> None:
        self._broker.log.put(Table.WILLS, held.key, encode_row(held.row()))
