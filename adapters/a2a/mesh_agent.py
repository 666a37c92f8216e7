"""The mesh's own agent: answers the calls that are asked of ``/a2a/mesh``, as whoever asked. The broker asks the gate.

Its work begins anew when the mesh is back: a publish is deduplicated by its task, a watch goes on after the last
message it told.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar, final

import msgspec

from dragoman.adapters.a2a.mesh_skills import SKILLS, Arguments, Find, Publish, Read, Watch
from dragoman.adapters.a2a.session import A2aSession
from dragoman.adapters.a2a.views import OWN_AGENT
from dragoman.adapters.a2a.wire import JSON_TYPE, JsonObject
from dragoman.adapters.serving.quota import Quota
from dragoman.adapters.serving.reading import read_page
from dragoman.broker.call import Call, Kind
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.offers import Asked, Offer
from dragoman.broker.presence import Agent, State
from dragoman.broker.principal import MESH
from dragoman.broker.subscription import Place, Start
from dragoman.routing.cards import Query
from dragoman.routing.message import Message, parse_id
from dragoman.routing.names import check_name, is_exact, shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError
from dragoman.routing.words import agent_json, envelope_of, message_json, payload_of

if TYPE_CHECKING:
    from dragoman.adapters.a2a.settings import A2aSettings
    from dragoman.broker.broker import Broker

T = TypeVar("T", bound=Arguments)

logger = logging.getLogger(__name__)


@final
class MeshAgent:
    """Serves the skills of ``mesh_skills``."""

    def __init__(self, broker: Broker, settings: A2aSettings) -> None:
        self._broker = broker
        self._settings = settings
        self._session = InnerSession(MESH, OWN_AGENT)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._watches = Quota("watches", each_max=settings.watches_per_principal_max, total_max=settings.watches_max)

    def start(self) -> None:
        """Answers from now on, also what was asked before the mesh was stopped."""
        agent = Agent(OWN_AGENT, MESH.name, None)
        agent.state = State.ONLINE
        self._broker.calls.serve_within(
            [Offer(agent, self._session, skill, self._ask, self._cancelled) for skill in SKILLS]
        )

    async def stop(self) -> None:
        """Leaves off. What was not finished is asked again when the mesh is back."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # -- being asked ---------------------------------------------------------------------------------

    def _ask(self, asked: Asked) -> bool:
        assert isinstance(asked, Call), "a call is what a server is asked"
        task = asyncio.get_running_loop().create_task(self._serve(asked), name=f"a2a {asked.skill} {asked.id}")
        self._running[asked.id] = task
        task.add_done_callback(lambda done: self._done(asked, done))
        return True

    def _done(self, call: Call, task: asyncio.Task[None]) -> None:
        self._running.pop(call.id, None)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            logger.error("a skill of the mesh's own agent failed", extra={"skill": call.skill}, exc_info=fault)
            self._answer(call, Refusal(Reason.FAILED, "a fault of ours; the log has it"))

    def _cancelled(self, asked: Asked) -> None:
        task = self._running.get(asked.id)
        if task is not None:
            task.cancel()

    async def _serve(self, call: Call) -> None:
        session = A2aSession(
            call.principal,
            call.caller_agent,
            count_max=self._settings.watch_messages_max,
            bytes_max=self._settings.watch_bytes_max,
        )
        outcome: JsonObject | Refusal | None = self._broker.attach(session)
        if outcome is None:
            try:
                outcome = await self._act(call, session)
            except RefusedError as error:
                outcome = error.refusal
            finally:
                self._broker.detach(session)
        if session.closed is None:
            self._answer(call, outcome)

    async def _act(self, call: Call, session: A2aSession) -> JsonObject | Refusal:
        given = _object(call)
        match call.skill:
            case "publish":
                _checked(given, Publish)
                return await self._publish(call, session, _present(given))
            case "read":
                return await self._read(session, _checked(given, Read))
            case "watch":
                with self._watches.held(call.principal.name):
                    return await self._watch(call, session, _checked(given, Watch))
            case "find":
                return self._find(call, _checked(given, Find))
        raise AssertionError(f"{call.skill} is not among the skills")

    def _answer(self, call: Call, outcome: JsonObject | Refusal, *, partial: bool = False) -> None:
        if not call.pending:
            return
        refusal = outcome if isinstance(outcome, Refusal) else None
        payload = b"" if isinstance(outcome, Refusal) else msgspec.json.encode(outcome)
        said = self._broker.calls.answer(
            self._session, call.id, payload, content_type=JSON_TYPE, partial=partial, error=refusal
        )
        assert said is None, f"a pending call of ours takes its answer: {said}"

    # -- acts ----------------------------------------------------------------------------------------

    async def _publish(self, call: Call, session: A2aSession, given: JsonObject) -> JsonObject | Refusal:
        payload = payload_of(given)
        envelope = envelope_of(given, call.started_ms)
        if isinstance(payload, Refusal):
            return payload
        if isinstance(envelope, Refusal):
            return envelope
        cause, reply_to = given.get("cause"), given.get("reply_to")
        if cause is not None and parse_id(cause) is None:
            return Refusal(Reason.ARGUMENTS_INVALID, f"cause is no message id: {shown(cause)}")
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
        # The task's own id is a key as well: it may be asked again after a restart.
        dedupe = (f"a2a:{call.principal.name}:{session.agent}", given.get("idempotency_key", call.id))
        ticket = self._broker.publish(session, message, dedupe)
        if isinstance(ticket, Refusal):
            return ticket
        refusal = await session.safe(ticket, self._settings.confirm_max_s)
        if refusal is not None:
            return refusal
        return {"id": message.id, "channel": message.name, "offset": message.offset, "logged": ticket != 0}

    async def _read(self, session: A2aSession, wish: Read) -> JsonObject | Refusal:
        offset = wish.offset
        if offset is None:
            newest = self._broker.last_of(wish.channel)
            offset = None if newest is None else max(0, newest.offset + 1 - wish.limit)
        page = await read_page(
            self._broker,
            session,
            wish.channel,
            offset,
            limit=wish.limit,
            bytes_max=self._settings.read_bytes_max,
            patience_s=self._settings.confirm_max_s,
        )
        if isinstance(page, Refusal):
            return page
        outcome: JsonObject = {
            "messages": [message_json(message) for message in page.messages],
            "next_offset": page.next_offset,
        }
        if page.lost and wish.offset is not None:
            outcome["lost"] = page.lost
        retained = self._broker.retained_of(wish.channel)
        if retained is not None and retained.number == page.number:
            outcome["retained"] = message_json(retained)
        return outcome

    async def _watch(self, call: Call, session: A2aSession, wish: Watch) -> JsonObject | Refusal:
        told = _told(call)
        start = _place_after(told[-1]) if told and is_exact(wish.channel) else Start.NEW
        subscription = self._broker.subscribe(session, wish.channel, wish=1, start=start, retained=False)
        if isinstance(subscription, Refusal):
            return subscription
        clock = self._broker.clock
        until_ms = None if wish.timeout_s is None else call.started_ms + int(wish.timeout_s * 1000)
        received = len(told) + _dropped(call)
        while session.closed is None:
            left_s = None if until_ms is None else (until_ms - clock.now_ms()) / 1000
            if (left_s is not None and left_s <= 0) or (wish.limit is not None and received >= wish.limit):
                break
            await session.arrival(left_s)
            for message in session.take(self._broker):
                if wish.limit is None or received < wish.limit:
                    received += 1
                    self._answer(call, message_json(message), partial=True)
        outcome: JsonObject = {"received": received}
        return {**outcome, "lost": session.missed} if session.missed else outcome

    def _find(self, call: Call, wish: Find) -> JsonObject:
        query = Query(id=wish.agent, tag=wish.tag, skill=wish.skill, text=wish.text, state=wish.state)
        found = self._broker.directory.find(call.principal, query)
        return {
            "agents": [
                agent_json(agent.id, agent.state.value, agent.since_ms, agent.card) for agent in found[: wish.limit]
            ],
            "more": len(found) > wish.limit,
        }


def _object(call: Call) -> JsonObject:
    try:
        given = msgspec.json.decode(call.arguments or b"{}")
    except (msgspec.DecodeError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise RefusedError(Refusal(Reason.ARGUMENTS_INVALID, "the arguments are a JSON object"))
    return given


def _checked(given: JsonObject, kind: type[T]) -> T:
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise RefusedError(Refusal(Reason.ARGUMENTS_INVALID, str(error))) from None


def _present(given: JsonObject) -> JsonObject:
    return {word: value for word, value in given.items() if value is not None}


def _told(call: Call) -> list[Any]:
    """The messages a watch has told already, as far as they are kept."""
    return [msgspec.json.decode(event.payload) for event in call.events if event.kind is Kind.PART and event.payload]


def _dropped(call: Call) -> int:
    """Messages a watch has told that are kept no longer: all events before the first kept, but that it began."""
    return max(0, call.events[0].number - 2) if call.events else 0


def _place_after(message: JsonObject) -> Place | Start:
    found = parse_id(message["id"])
    return Start.NEW if found is None else (found[0], found[1] + 1)
