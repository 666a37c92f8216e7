"""Requests of A2A over MQTT: ``$a2a/v1/request/{org}/{unit}/{agent}``. Decides who gets them, and answers for the mesh.

An agent that listens to its own request topic is asked there, verbatim. One of any other protocol is asked by the
mesh: the request begins a task, as it does at the web endpoint, and what happens to the task goes to the response
topic with the request's correlation. Nobody there: the requester is told so at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final
from uuid import UUID

import msgspec

from dragoman.adapters.a2a import jsonrpc
from dragoman.adapters.a2a.errors import A2aError, Fault, invalid, refused
from dragoman.adapters.a2a.mesh_skills import OWN
from dragoman.adapters.a2a.methods import no_method
from dragoman.adapters.a2a.places import REQUEST, Places
from dragoman.adapters.a2a.reading import Reading, from_birth, from_now
from dragoman.adapters.a2a.wire import (
    CancelRequest,
    GetRequest,
    JsonObject,
    ListRequest,
    SendRequest,
    SubscribeRequest,
    parse,
    read,
)
from dragoman.adapters.serving.quota import Quota
from dragoman.broker.gate import Action
from dragoman.broker.log.contract import DONE, Ticket
from dragoman.broker.presence import State
from dragoman.broker.verb_replies import Voice
from dragoman.routing.message import EMPTY, NEVER, Envelope, Message, Wish
from dragoman.routing.names import check_name, shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError
from dragoman.routing.words import TRACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.adapters.a2a.desk import Desk
    from dragoman.adapters.a2a.settings import A2aSettings
    from dragoman.adapters.a2a.tasks import Party
    from dragoman.adapters.a2a.views import Found
    from dragoman.broker.broker import Broker
    from dragoman.broker.presence import Agent
    from dragoman.broker.session import Session

logger: Final = logging.getLogger(__name__)

EXPIRED: Final = -32003
UNAVAILABLE: Final = -32004
PROTOCOL: Final = -32005
_WORDS: Final = {
    EXPIRED: "request_expired",
    UNAVAILABLE: "responder_unavailable",
    PROTOCOL: "transport_protocol_error",
}
"""The errors of the binding itself; its numbers mean other things in A2A, so they go with a word."""

_AWAY: Final = frozenset(
    (
        Reason.UNKNOWN_AGENT,
        Reason.AGENT_UNREACHABLE,
        Reason.BUSY,
        Reason.QUOTA_EXCEEDED,
        Reason.RATE_EXCEEDED,
        Reason.MAILBOX_FULL,
        Reason.STORAGE_FULL,
        Reason.STORAGE_FAILED,
        Reason.SHUTTING_DOWN,
    )
)
"""Refusals after which the same request may work later."""

PROFILE: Final = "a2a-security-profile"
CONTEXT: Final = "a2a-context-id"


class BindingError(Exception):
    """The request is wrong, or too late, in a way that only this binding has."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class _Request(NamedTuple):
    """What came, and where its answers go."""

    session: Session
    agent: str
    payload: bytes
    envelope: Envelope
    reply: str


@final
class Requests:
    """The request topics."""

    def __init__(
        self, broker: Broker, places: Places, settings: A2aSettings, desk: Desk, listens: Callable[[str], bool]
    ) -> None:
        """``listens``: whether an agent is there and listens to its own request topic."""
        self._broker = broker
        self._places = places
        self._desk = desk
        self._first_reply_s = settings.mqtt_first_reply_s
        self._listens = listens
        self._quota = Quota("requests", each_max=settings.requests_per_principal_max, total_max=settings.requests_max)
        self._running: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Leaves off answering. Tasks go on when the mesh is back, and can be asked for."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    # -- who gets it ---------------------------------------------------------------------------------

    def publish(self, session: Session, message: Message) -> Ticket | Refusal:
        """Gives the request to whoever is to have it."""
        agent = self._places.agent_at(message.name[len(REQUEST) :])
        if self._goes_on(session, agent, message.name):
            message.retain = False
            return self._broker.say(session, message)
        verdict = self._broker.gate.check(session.principal, Action.PUBLISH, message.name, session.agent)
        if isinstance(verdict, Refusal):
            return verdict
        envelope = message.envelope or EMPTY
        reply = envelope.reply_to
        refusal = self._no_reply(session, reply) if reply is not None else None
        if refusal is not None:
            return refusal
        if reply is None or envelope.correlation is None:
            detail = "a request has a Response Topic and Correlation Data"
            if reply is not None:
                asked = _Request(session, agent or "", b"", envelope, reply)
                self._say(asked, jsonrpc.failure(None, _binding(PROTOCOL, detail)))
            return Refusal(Reason.ARGUMENTS_INVALID, detail)
        asked = _Request(session, agent or "", message.payload or b"", envelope, reply)
        if agent is None or self._is_away(session, agent):
            detail = f"nobody is asked at {shown(message.name)} now"
            self._say(asked, jsonrpc.failure(_id_within(asked.payload), _binding(UNAVAILABLE, detail)))
            return Refusal(Reason.AGENT_UNREACHABLE, detail)
        return self._begin(asked)

    def _goes_on(self, session: Session, agent: str | None, name: str) -> bool:
        """Whether it is a message like any other, for those who listen to this topic or will when they are back."""
        core = self._broker.core
        entry = self._known(session, agent) if agent is not None and agent != OWN else None
        if agent != OWN and entry is None:
            channel = self._broker.channels.find(name)
            exact = channel is not None and bool(channel.exact)
            return exact or bool(core.filters.match(name) or core.readers.match(name))
        if entry is None:
            return False
        sleeps = bool(entry.kept) and not entry.connected and bool(core.readers.match(name))
        return sleeps or self._listens(entry.id)

    def _is_away(self, session: Session, agent: str) -> bool:
        """Whether it cannot be asked now, and nothing would keep the request for it."""
        if agent == OWN:
            return False
        entry = self._known(session, agent)
        return entry is None or (entry.state in (State.LOST, State.GONE) and not entry.kept)

    def _known(self, session: Session, agent: str) -> Agent | None:
        """The agent, if the session may know of it."""
        directory = self._broker.directory
        return directory.get(agent) if directory.sees(session.principal, agent) else None

    def _no_reply(self, session: Session, reply: str) -> Refusal | None:
        """Answers go only where the requester could have spoken itself, and never become a further request."""
        refusal = check_name(reply)
        if refusal is not None:
            return Refusal(Reason.ARGUMENTS_INVALID, f"the response topic is no name: {refusal.detail}")
        if self._broker.acts(reply):
            if reply.startswith(self._broker.verbs.prefix + "to/"):
                return None
            return Refusal(Reason.ARGUMENTS_INVALID, f"answers cannot go to {shown(reply)}")
        verdict = self._broker.gate.check(session.principal, Action.PUBLISH, reply, session.agent)
        return verdict if isinstance(verdict, Refusal) else None

    # -- answering for the mesh ----------------------------------------------------------------------

    def _begin(self, asked: _Request) -> Ticket | Refusal:
        principal = asked.session.principal.name
        refusal = self._quota.take(principal)
        if refusal is not None:
            self._say(asked, jsonrpc.failure(_id_within(asked.payload), _said_by(refused(refusal))))
            return refusal
        task = asyncio.get_running_loop().create_task(self._serve(asked), name=f"a2a request to {asked.agent}")
        self._running.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            self._quota.give_back(principal)
            fault = None if task.cancelled() else task.exception()
            if fault is not None:
                logger.error("a request by MQTT failed", extra={"agent": asked.agent}, exc_info=fault)

        task.add_done_callback(done)
        return DONE

    async def _serve(self, asked: _Request) -> None:
        request_id: jsonrpc.Id = None
        try:
            self._check(asked)
            given = parse(asked.payload)
            request_id = jsonrpc.id_of(given)
            method, params = jsonrpc.asked_by(given)

            def tell(value: JsonObject) -> None:
                self._say(asked, jsonrpc.result(request_id, value))

            await self._do(asked, method, params, tell)
        except BindingError as error:
            self._say(asked, jsonrpc.failure(request_id, _binding(error.code, str(error))))
        except A2aError as error:
            self._say(asked, jsonrpc.failure(request_id, _said_by(error)))
        except RefusedError as error:
            self._say(asked, jsonrpc.failure(request_id, _said_by(refused(error.refusal))))

    def _check(self, asked: _Request) -> None:
        if NEVER != asked.envelope.expires_ms <= self._broker.clock.now_ms():
            raise BindingError(EXPIRED, "the request expired before it was begun")
        profile = asked.envelope.header(PROFILE)
        if profile is not None:
            detail = f"the mesh cannot read {PROFILE} {profile[:40]!r}: only an agent that listens here itself can"
            raise BindingError(PROTOCOL, detail)

    async def _do(self, asked: _Request, method: str, params: JsonObject, tell: Callable[[JsonObject], None]) -> None:
        headers = [(name, asked.envelope.header(name)) for name in TRACE]
        trace = {name: value.decode("utf-8", "replace") for name, value in headers if value is not None}
        party = self._desk.party(asked.session.principal, asked.session.agent, asked.agent, trace)
        tasks = self._desk.tasks
        match method:
            case "SendMessage":
                await self._send(asked, party, read(params, SendRequest), tell)
            case "SendStreamingMessage":
                request = read(params, SendRequest)
                task = await self._start(asked, party, request)
                await self._stream(task, from_birth(tasks, task, _history(request)), tell)
            case "SubscribeToTask":
                task = tasks.find(party, read(params, SubscribeRequest).id)
                if not task.call.pending:
                    raise A2aError(Fault.UNSUPPORTED_OPERATION, "the task has ended; GetTask shows it")
                await self._stream(task, from_now(tasks, task), tell)
            case "GetTask":
                tell(tasks.get(party, read(params, GetRequest)))
            case "ListTasks":
                tell(await tasks.page(party, read(params, ListRequest)))
            case "CancelTask":
                tell(await tasks.cancel(party, read(params, CancelRequest).id))
            case _:
                raise no_method(method)

    async def _send(
        self, asked: _Request, party: Party, request: SendRequest, tell: Callable[[JsonObject], None]
    ) -> None:
        """The task at its end if that comes soon; else as it is, so that its requester knows it was heard, and then."""
        tasks, configuration = self._desk.tasks, request.configuration
        task = await self._start(asked, party, request)
        at_once = configuration is not None and configuration.return_immediately is True
        if not at_once:
            await tasks.ended(task.call, self._first_reply_s)
        tell({"task": tasks.shown(task, _history(request))})
        if task.call.pending and not at_once:
            await self._until_end(task)
            tell({"task": tasks.shown(task, _history(request))})

    async def _until_end(self, task: Found) -> None:
        with self._desk.tasks.watched(task.call) as news:
            while task.call.pending:
                news.clear()
                await news.wait()

    async def _start(self, asked: _Request, party: Party, request: SendRequest) -> Found:
        message = request.message
        if not _is_uuid(message.task_id):
            detail = "message.taskId is a UUID that the requester makes for each task"
            raise BindingError(PROTOCOL, detail)
        context = asked.envelope.header(CONTEXT)
        if context is not None and context.decode("utf-8", "replace") != (message.context_id or ""):
            raise invalid("message.contextId", f"is not what {CONTEXT} says")
        return await self._desk.tasks.start(party, request, named=True)

    async def _stream(self, task: Found, reading: Reading, tell: Callable[[JsonObject], None]) -> None:
        with self._desk.tasks.watched(task.call) as news:
            tell(reading.first.told)
            while not reading.over:
                news.clear()
                items = reading.take()
                for item in items:
                    tell(item.told)
                if not items and not reading.over:
                    await news.wait()

    def _say(self, asked: _Request, response: JsonObject) -> None:
        """Publishes a response, with the permissions of whoever asked for it."""
        envelope = Envelope(content_type="application/json", correlation=asked.envelope.correlation, text=True)
        payload = msgspec.json.encode(response)
        voice = Voice(asked.session.principal, asked.agent)
        self._broker.publish(voice, Message(asked.reply, payload, Wish.AT_LEAST_ONCE, asked.agent, False, envelope))


def _binding(code: int, detail: str) -> JsonObject:
    return {"code": code, "message": detail, "data": {"a2a_error": _WORDS[code]}}


def _said_by(error: A2aError) -> JsonObject:
    """The error, in the binding's own terms where it has some."""
    if error.refusal is not None and error.refusal.reason in _AWAY:
        said = _binding(UNAVAILABLE, error.detail)
        said["data"]["reason"] = error.refusal.reason.value
        return said
    return error.rpc()


def _id_within(payload: bytes) -> jsonrpc.Id:
    """The id of a request nobody serves; None if it has none that can be found."""
    try:
        return jsonrpc.id_of(parse(payload))
    except A2aError:
        return None


def _history(request: SendRequest) -> int | None:
    return request.configuration.history_length if request.configuration is not None else None


def _is_uuid(text: Any) -> bool:
    try:
        return isinstance(text, str) and str(UUID(text)) == text.lower()
    except ValueError:
        return False
