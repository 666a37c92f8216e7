"""Agents that are asked by A2A over MQTT: a call of anybody's in the mesh is a request at the agent's own topic.

Who has published a card and listens to its request topic serves the skills of its card. Its replies come to a reply
topic of ours, which nobody reads but we: pieces of its artifacts and what it says at work are partial answers, the
end of its task is the answer. A call that has ended otherwise is cancelled there.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, final
from uuid import UUID

import msgspec

from dragoman.adapters.a2a.places import REPLY, REQUEST, Places
from dragoman.adapters.serving.a2a_following import Following
from dragoman.adapters.serving.a2a_forms import FormError, JsonObject, answer_of, as_json, member, message_of, objects
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.log.contract import DONE, Ticket
from dragoman.broker.principal import MESH
from dragoman.routing.message import Envelope, Message, Wish
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.adapters.a2a.registrations import Native
    from dragoman.broker.broker import Broker
    from dragoman.broker.offers import Asked, Offer
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Subscription
    from dragoman.broker.timers import Timer
    from dragoman.routing.cards import Skill

WORKING: Final = "TASK_STATE_WORKING"

POLL_MS: Final = 2_000
"""An agent without streams that answered with a task at work is asked again so often."""

_REASONS: Final[dict[int, Reason]] = {
    -32003: Reason.DEADLINE_PASSED,
    -32004: Reason.AGENT_UNREACHABLE,
    -32601: Reason.UNSUPPORTED,
    -32602: Reason.ARGUMENTS_INVALID,
}


@dataclass(slots=True)
class _Pending:
    """A call an agent was asked."""

    call: Asked
    session: Session
    place: str
    task: str
    following: Following
    streams: bool
    poll: Timer | None = None


@final
class Servers:
    """Who listens to its own request topic, and what each was asked."""

    def __init__(self, broker: Broker, places: Places, native: Callable[[str], Native | None]) -> None:
        """``native``: what an agent's own card says of how it wants to be asked, if it has published one."""
        self._broker = broker
        self._places = places
        self._native = native
        self._listening: dict[Session, int] = {}
        self._offers: dict[Session, dict[str, Offer]] = {}
        self._pending: dict[str, _Pending] = {}
        self._replies = REPLY + places.own("mesh") + "/"

    def takes(self, name: str) -> bool:
        """Whether this is where replies come to us."""
        return name.startswith(self._replies)

    def listens(self, agent: str) -> bool:
        """Whether the agent is there and listens to its own request topic."""
        entry = self._broker.directory.get(agent)
        return entry is not None and any(session in self._listening for session, _ in entry.connections)

    # -- who serves ----------------------------------------------------------------------------------

    def subscribed(self, subscription: Subscription) -> None:
        """Somebody subscribes below ``$a2a``: if it is an agent to its own topic, it can be asked."""
        if self._is_own(subscription):
            session = subscription.session
            self._listening[session] = self._listening.get(session, 0) + 1
            self.serve(session.agent)

    def unsubscribed(self, subscription: Subscription) -> None:
        """It does not listen any more, or is gone."""
        session = subscription.session
        if not self._is_own(subscription) or session not in self._listening:
            return
        self._listening[session] -= 1
        if self._listening[session]:
            return
        del self._listening[session]
        for offer in self._offers.pop(session, {}).values():
            self._broker.directory.withdraw(offer)
        self._broker.later(self._parted, session)

    def _parted(self, session: Session) -> None:
        """Whoever only listens no more may still answer; of a connection that has ended nothing is expected."""
        entry = self._broker.directory.get(session.agent)
        if entry is None or all(known is not session for known, _ in entry.connections):
            for pending in [pending for pending in self._pending.values() if pending.session is session]:
                self._forget(pending.call.id)

    def _is_own(self, subscription: Subscription) -> bool:
        agent = subscription.session.agent
        return bool(agent) and subscription.filter == REQUEST + self._places.of(agent)

    def serve(self, agent: str) -> None:
        """Offers exactly the skills of the agent's card, on each of its connections that listens."""
        entry = self._broker.directory.get(agent)
        native = self._native(agent)
        skills = {skill.name: skill for skill in native.card.skills} if native is not None else {}
        for session, _ in entry.connections if entry is not None else ():
            if session not in self._listening:
                continue
            offers = self._offers.setdefault(session, {})
            for name, offer in list(offers.items()):
                if skills.get(name) != offer.skill:
                    self._broker.directory.withdraw(offers.pop(name))
            for name, skill in skills.items():
                offered = self._offer(session, agent, skill) if name not in offers else None
                if offered is not None:
                    offers[name] = offered

    def _offer(self, session: Session, agent: str, skill: Skill) -> Offer | None:
        """None: the gate or a bound says no. Its card shows the skill all the same, and nobody is asked by it."""

        def ask(asked: Asked) -> bool:
            return self._ask(session, agent, asked)

        offered = self._broker.directory.offer(session, agent, skill, ask, self._cancelled)
        return None if isinstance(offered, Refusal) else offered

    # -- asking --------------------------------------------------------------------------------------

    def _ask(self, session: Session, agent: str, asked: Asked) -> bool:
        native = self._native(agent)
        if native is None:
            return False
        task = _uuid(f"task {asked.id}")
        pending = _Pending(asked, session, self._places.of(agent), task, Following(), native.streams)
        self._pending[asked.id] = pending
        message = message_of(asked, asked.deadline_ms - self._broker.clock.now_ms())
        message["taskId"] = task
        message["contextId"] = _uuid(f"context {asked.id}")
        if not native.takes_json:
            message["parts"] = [_as_text(part) for part in message["parts"]]
        method = "SendStreamingMessage" if native.streams else "SendMessage"
        said = self._publish(pending, method, {"message": message})
        if isinstance(said, Refusal):
            self._end(pending, b"", None, said)
        return True

    def _cancelled(self, asked: Asked) -> None:
        """Nobody waits any more: the agent is told, and its answer to that is of no interest."""
        pending = self._forget(asked.id)
        if pending is not None:
            self._publish(pending, "CancelTask", {"id": pending.task})

    def _publish(self, pending: _Pending, method: str, params: JsonObject) -> Ticket | Refusal:
        asked = pending.call
        request = {"jsonrpc": "2.0", "id": asked.id, "method": method, "params": params}
        envelope = Envelope(
            content_type="application/json",
            reply_to=self._replies + asked.id,
            correlation=f"{asked.id} {method}".encode(),
            expires_ms=asked.deadline_ms if method != "CancelTask" else self._broker.clock.now_ms() + 60_000,
            text=True,
        )
        name = REQUEST + pending.place
        message = Message(name, msgspec.json.encode(request), Wish.AT_LEAST_ONCE, "", False, envelope)
        return self._broker.say(InnerSession(MESH, asked.caller_agent), message)

    def _forget(self, call_id: str) -> _Pending | None:
        pending = self._pending.pop(call_id, None)
        if pending is not None and pending.poll is not None:
            pending.poll.cancel()
        return pending

    # -- being answered ------------------------------------------------------------------------------

    def heard(self, session: Session, message: Message) -> Ticket | Refusal:
        """A reply. Only of the agent that was asked."""
        pending = self._pending.get(message.name[len(self._replies) :])
        if pending is None:
            return Refusal(Reason.GONE, "nobody waits for this reply (any more)")
        if not session.agent or session.agent != pending.session.agent:
            return Refusal(Reason.NOT_AUTHORIZED, "this was asked of somebody else")
        try:
            self._take(pending, session, message.payload or b"")
        except FormError as error:
            self._end(pending, b"", None, Refusal(Reason.FAILED, f"the agent's reply is no A2A: {error}"))
        return DONE

    def _take(self, pending: _Pending, session: Session, payload: bytes) -> None:
        try:
            given: Any = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FormError(f"no JSON: {error}") from None
        if not isinstance(given, dict):
            raise FormError("no JSON object")
        if given.get("error") is not None:
            self._end(pending, b"", None, _failure(member(given, "error")))
            return
        following, result = pending.following, given.get("result")
        if isinstance(result, dict) and "status" in result and "id" in result:
            # GetTask answers with the task itself.
            following.snapshot(result)
        else:
            pieces = [(piece.payload, piece.content_type) for piece in following.take(result)]
            for part, content_type in [*_at_work(result), *pieces]:
                self._broker.calls.answer(session, pending.call.id, part, content_type=content_type, partial=True)
        ended = following.ended
        if ended is not None:
            self._end(pending, ended.payload, ended.content_type, ended.failure)
        elif not pending.streams and pending.poll is None:
            pending.poll = self._broker.timers.after(POLL_MS, self._poll, pending)

    def _poll(self, pending: _Pending) -> None:
        pending.poll = None
        if self._pending.get(pending.call.id) is pending:
            self._publish(pending, "GetTask", {"id": pending.task})

    def _end(self, pending: _Pending, payload: bytes, content_type: str | None, failure: Refusal | None) -> None:
        self._forget(pending.call.id)
        self._broker.calls.answer(pending.session, pending.call.id, payload, content_type=content_type, error=failure)


def _uuid(text: str) -> str:
    """A UUID as random ones look, the same each time: an agent asked again after a crash knows its task again."""
    return str(UUID(bytes=sha256(text.encode()).digest()[:16], version=4))


def _as_text(part: JsonObject) -> JsonObject:
    """For an agent that takes text only: the one text among the arguments, else all of them as JSON."""
    if "data" not in part:
        return part
    data = part["data"]
    only = next(iter(data.values())) if isinstance(data, dict) and len(data) == 1 else None
    return {"text": only if isinstance(only, str) else as_json(data).decode(), "mediaType": "text/plain"}


def _at_work(result: object) -> list[tuple[bytes, str | None]]:
    """What an agent says while it works, which is no artifact."""
    status = member(member(result, "statusUpdate"), "status")
    parts = objects(member(status, "message").get("parts"))
    if status.get("state") != WORKING or not parts:
        return []
    answer = answer_of(parts)
    return [(answer.payload, answer.content_type)] if answer.failure is None and answer.payload else []


def _failure(error: JsonObject) -> Refusal:
    code = error.get("code")
    reason = _REASONS.get(code, Reason.FAILED) if isinstance(code, int) else Reason.FAILED
    return Refusal(reason, f"the agent says: {str(error.get('message') or code)[:1000]}")
