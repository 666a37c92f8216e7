"""What the tools named mesh_… do. Arguments have been checked against the tool's schema; the broker asks the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

from dragoman.adapters.mcp.session import Inbox, McpSession
from dragoman.adapters.serving.reading import read_page
from dragoman.broker.subscription import Start
from dragoman.routing.cards import Query
from dragoman.routing.message import Message, parse_id
from dragoman.routing.names import check_name, shown
from dragoman.routing.refusals import Reason, Refusal
from dragoman.routing.words import agent_json, envelope_of, message_json, payload_of

if TYPE_CHECKING:
    from dragoman.adapters.mcp.callers import Caller
    from dragoman.adapters.mcp.cursors import Cursor, Cursors
    from dragoman.adapters.mcp.kernel import JsonObject
    from dragoman.adapters.mcp.settings import McpSettings
    from dragoman.broker.broker import Broker

Outcome: TypeAlias = "JsonObject | Refusal"

LIMIT: Final = 20
"""Messages returned when the caller does not say."""

AGENTS: Final = 50
WAIT_S: Final = 30.0


@final
class MeshActs:
    """One method per mesh tool. ``session`` is attached and the caller's own for this request."""

    __slots__ = ("_broker", "_cursors", "_settings")

    def __init__(self, broker: Broker, cursors: Cursors, settings: McpSettings) -> None:
        self._broker = broker
        self._cursors = cursors
        self._settings = settings

    async def publish(self, caller: Caller, session: McpSession, given: JsonObject) -> Outcome:
        """Says something in a channel; answers when it is safe."""
        payload = payload_of(given)
        envelope = envelope_of(given, self._broker.clock.now_ms())
        if isinstance(payload, Refusal):
            return payload
        if isinstance(envelope, Refusal):
            return envelope
        cause = given.get("cause")
        if cause is not None and parse_id(cause) is None:
            return Refusal(Reason.ARGUMENTS_INVALID, f"cause is no message id: {shown(cause)}")
        reply_to = given.get("reply_to")
        fault = check_name(reply_to) if reply_to is not None else None
        if fault is not None:
            return fault
        message = Message(
            given["channel"],
            payload,
            wish=1 if given.get("durable", True) else 0,
            sender=session.agent,
            retain=given.get("retain", False),
            envelope=self._broker.verbs.absolute(session, envelope),
        )
        key = given.get("idempotency_key")
        dedupe = None if key is None else (f"mcp:{caller.principal.name}:{caller.agent}", key)
        ticket = self._broker.publish(session, message, dedupe)
        if isinstance(ticket, Refusal):
            return ticket
        refusal = await session.safe(ticket, self._settings.call_timeout_s)
        if refusal is not None:
            return refusal
        return {"id": message.id, "channel": message.name, "offset": message.offset, "logged": ticket != 0}

    async def read(self, caller: Caller, session: McpSession, given: JsonObject) -> Outcome:
        """Messages of a channel, from an offset or the newest."""
        name, limit = given["channel"], int(given.get("limit", LIMIT))
        offset = None if "offset" not in given else int(given["offset"])
        if offset is None:
            newest = self._broker.last_of(name)
            offset = None if newest is None else max(0, newest.offset + 1 - limit)
        page = await read_page(
            self._broker,
            session,
            name,
            offset,
            limit=limit,
            bytes_max=self._settings.read_bytes_max,
            patience_s=self._settings.call_timeout_s,
        )
        if isinstance(page, Refusal):
            return page
        outcome: JsonObject = {"messages": [message_json(m) for m in page.messages], "next_offset": page.next_offset}
        if page.lost and "offset" in given:
            outcome["lost"] = page.lost
        retained = self._broker.retained_of(name)
        if retained is not None and retained.number == page.number:
            outcome["retained"] = message_json(retained)
        return outcome

    async def wait(self, caller: Caller, session: McpSession, given: JsonObject) -> Outcome:
        """The next messages, of a cursor or of a channel from now on."""
        timeout_s = min(given.get("timeout_s", WAIT_S), self._settings.wait_timeout_max_s)
        limit = int(given.get("limit", LIMIT))
        if ("cursor" in given) == ("channel" in given):
            return Refusal(Reason.ARGUMENTS_INVALID, "give either a cursor from mesh_join, or a channel")
        if "cursor" in given:
            cursor = self._cursors.find(caller, given["cursor"])
            return cursor if isinstance(cursor, Refusal) else await self._wait_cursor(cursor, timeout_s, limit)
        inbox = Inbox(limit, self._settings.read_bytes_max)
        listener = McpSession(
            caller.principal,
            caller.agent,
            take=lambda feed, message: inbox.offer(feed.name, message),
            on_lost=lambda feed, count: inbox.missed(count),
            on_close=lambda refusal: inbox.close(),
        )
        refusal = self._broker.attach(listener)
        if refusal is not None:
            return refusal
        try:
            subscription = self._broker.subscribe(listener, given["channel"], retained=False)
            if isinstance(subscription, Refusal):
                return subscription
            await inbox.arrival(timeout_s)
            return listener.closed or self._taken(inbox, limit)
        finally:
            self._broker.detach(listener)

    async def join(self, caller: Caller, session: McpSession, given: JsonObject) -> Outcome:
        """A cursor on a channel."""
        start = Start(given.get("from", "new"))
        cursor = self._cursors.join(caller, given["channel"], given.get("cursor"), start, given.get("lease_s"))
        if isinstance(cursor, Refusal):
            return cursor
        return {"cursor": cursor.name, "channel": cursor.filter, "lease_s": cursor.lease_ms / 1000}

    async def leave(self, caller: Caller, session: McpSession, given: JsonObject) -> Outcome:
        """Ends a cursor."""
        cursor = self._cursors.find(caller, given["cursor"])
        if isinstance(cursor, Refusal):
            return cursor
        self._cursors.leave(cursor)
        return {"channel": cursor.filter, "unread": len(cursor.inbox.entries)}

    async def find_agents(self, caller: Caller, session: McpSession, given: JsonObject) -> Outcome:
        """Agents that fit a description."""
        query = Query(
            id=given.get("agent"),
            tag=given.get("tag"),
            skill=given.get("skill"),
            text=given.get("text"),
            state=given.get("state"),
        )
        found = self._broker.directory.find(caller.principal, query)
        limit = int(given.get("limit", AGENTS))
        return {
            "agents": [agent_json(agent.id, agent.state.value, agent.since_ms, agent.card) for agent in found[:limit]],
            "more": len(found) > limit,
        }

    async def members(self, caller: Caller, session: McpSession, given: JsonObject) -> Outcome:
        """Who is in a channel."""
        name = given["channel"]
        fault = check_name(name)
        if fault is not None:
            return fault
        if not self._broker.may_read(session, name):
            return Refusal(Reason.NOT_AUTHORIZED, f"you may not read {shown(name)}")
        members = self._broker.directory.members(name)
        return {"members": [{"agent": agent, "since_ms": since_ms} for agent, since_ms in members]}

    async def open_room(self, caller: Caller, session: McpSession, given: JsonObject) -> Outcome:
        """A fresh private channel."""
        lease_s = given.get("lease_s")
        room = self._broker.rooms.open(
            session,
            title=given.get("title", ""),
            invited=given.get("invite", []),
            lease_ms=None if lease_s is None else int(lease_s * 1000),
        )
        if isinstance(room, Refusal):
            return room
        return {"channel": room.name, "until_ms": room.lease_due_ms}

    async def _wait_cursor(self, cursor: Cursor, timeout_s: float, limit: int) -> Outcome:
        if cursor.inbox.drop_expired(self._broker.clock.now_ms()):
            self._broker.resume(cursor.session)
        cursor.readers += 1
        try:
            await cursor.inbox.arrival(timeout_s)
        finally:
            cursor.readers -= 1
        outcome = self._taken(cursor.inbox, limit)
        if cursor.session.closed is not None:
            return outcome if outcome["messages"] else cursor.session.closed
        self._broker.resume(cursor.session)
        outcome["waiting"] = len(cursor.inbox.entries)
        self._cursors.renew(cursor)
        return outcome

    def _taken(self, inbox: Inbox, limit: int) -> JsonObject:
        inbox.drop_expired(self._broker.clock.now_ms())
        taken = inbox.take(limit, self._settings.read_bytes_max)
        outcome: JsonObject = {"messages": [message_json(message) for _, message in taken]}
        lost = inbox.take_lost()
        if lost:
            outcome["lost"] = lost
        return outcome
